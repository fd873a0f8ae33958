"""Variables that tell a network nothing: ids are refused, constant and duplicate columns left out and named."""

from collections.abc import Iterable, Sequence
from typing import Any

import narwhals as nw
import polars as pl
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Columns, local_times, present

ID_SHARE = 0.95  # of the values of a column that differ, from which on it identifies rows
ID_ROWS = 50  # with fewer rows, values may all differ by chance
CODES = range(3, 11)  # distinct whole numbers that may be codes; two say the same as a number and as a category
CODE_ROWS = 10  # rows of the rarest of them


class LeftOut(BaseModel):
    """Listed variables that are no inputs.

    Attributes:
        constant: those with one value in all training rows.
        duplicates: those with the values of an earlier variable of the same role, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    constant: tuple[str, ...] = ()
    duplicates: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.constant, *self.duplicates)

    def keep(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names that are not left out."""
        return tuple(name for name in names if name not in self.names)

    def columns(self, columns: Columns) -> Columns:
        """The roles without the variables that are left out."""
        roles = ("categorical", "continuous", "dates", "text")
        return columns.model_copy(update={role: self.keep(getattr(columns, role)) for role in roles})

    def groups(self, groups: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
        """Groups of columns without the constant ones, and with the earlier one for a duplicate; each group once."""
        found = (
            tuple(dict.fromkeys(self.duplicates.get(name, name) for name in group if name not in self.constant))
            for group in groups
        )
        return tuple(dict.fromkeys(group for group in found if group))


def find_redundant(table: nw.DataFrame[Any], columns: Columns) -> LeftOut:
    """The constant and the duplicate variables of the training rows; none of a single row, where all are constant.

    Raises:
        DataError: if no other variable is left.
    """
    constant: list[str] = []
    duplicates: dict[str, str] = {}
    if len(table) < 2:
        return LeftOut()
    for names in (columns.categorical, columns.continuous, columns.dates, columns.text):
        seen: dict[int, list[str]] = {}  # not the values: of a large table these would be a copy of it
        for name in names:
            values = _plain_values(table, name)
            if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
                continue  # no variable of any role: refused, by its own message, where it is read
            if values.null_count() == 0 and (values == values[0]).all():
                constant.append(name)
                continue
            alike = seen.setdefault(hash(values.hash().to_numpy().tobytes()), [])
            same = (other for other in alike if _plain_values(table, other).equals(values, null_equal=True))
            if (original := next(same, None)) is not None:
                duplicates[name] = original
            else:
                alike.append(name)
    left_out = LeftOut(constant=tuple(constant), duplicates=duplicates)
    if not left_out.keep(columns.variables):
        raise DataError(
            f"every variable that columns lists has one value in all {len(table):,} training row(s): "
            f"{', '.join(map(repr, constant))}: a network needs one that varies"
        )
    return left_out


def refuse_ids(table: nw.DataFrame[Any], names: Sequence[str]) -> None:
    """Raise a DataError that names a categorical variable with another value in nearly every training row."""
    for name in names:
        rows, distinct = count_values(table, name)
        if rows >= ID_ROWS and distinct >= ID_SHARE * rows:
            raise DataError(
                f"column {name!r} (columns.categorical) has {distinct:,} different values in {rows:,} training rows, "
                "which tell nothing about other rows: list it in columns.id if it identifies the rows, in columns.text "
                "if it is text, in columns.continuous if it is a quantity, or leave it out"
            )


def count_values(table: nw.DataFrame[Any], name: str) -> tuple[int, int]:
    """Number of values of a column that are not missing, and of different ones."""
    values = table.select(nw.col(name)).filter(present(table, name)).get_column(name)
    return len(values), values.n_unique()


def possible_codes(table: nw.DataFrame[Any], names: Sequence[str]) -> list[str]:
    """Those continuous variables of the training rows that are integers of few values: they may be codes."""
    found = []
    for name in names:
        values = table.get_column(name).drop_nulls()
        if not values.dtype.is_integer() or values.n_unique() not in CODES:
            continue
        if values.value_counts(name="rows").get_column("rows").min() >= CODE_ROWS:
            found.append(name)
    return found


def _plain_values(table: nw.DataFrame[Any], name: str) -> pl.Series:
    """A column with one type for integers and booleans, one for other numbers and one for strings.

    NaN is null, and times lose their zone.
    """
    values = local_times(table, name).to_polars()
    if values.dtype == pl.UInt64:  # beyond Int64, perhaps
        return values
    if values.dtype.is_integer() or values.dtype == pl.Boolean:
        return values.cast(pl.Int64)
    if values.dtype.is_numeric():
        return values.cast(pl.Float64).fill_nan(None)
    return values.cast(pl.String) if isinstance(values.dtype, pl.Categorical | pl.Enum) else values
