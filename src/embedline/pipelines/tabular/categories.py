"""Categorical variables: the levels seen in training, and the codes of any frame."""

from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.frames.checks import require_exact

MISSING = 0  # code of a missing level and of one never seen in training

Kind = Literal["boolean", "integer", "string"]


class CategoryMap(BaseModel):
    """Levels of a categorical variable in sorted order: level ``levels[k]`` has the code ``k + 1``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    levels: tuple[bool | int | str, ...]

    @property
    def size(self) -> int:
        """Rows of the embedding table: the levels and one for missing or unseen."""
        return len(self.levels) + 1


def all_missing(table: nw.DataFrame[Any], name: str) -> bool:
    """Whether a column has no value at all; its type then says nothing, and depends on the engine."""
    return table.get_column(name).null_count() == len(table)


def boxed_booleans(table: nw.DataFrame[Any], name: str) -> bool:
    """Whether a column holds Python's booleans: what pandas reads from a CSV in which some are missing."""
    if table.get_column(name).dtype != nw.Object:
        return False
    return all(isinstance(value, bool) for value in table.get_column(name).drop_nulls().unique().to_list())


def kind_of(table: nw.DataFrame[Any], name: str, *, key: str = "columns.categorical") -> Kind:
    """What a column's values are; raise a DataError, which names the YAML ``key``, where they cannot be categories."""
    dtype = table.get_column(name).dtype
    require_exact(table.get_column(name), name, key)
    if dtype == nw.Boolean or boxed_booleans(table, name):
        return "boolean"
    if dtype.is_integer():
        return "integer"
    if dtype in (nw.String, nw.Categorical, nw.Enum) or isinstance(dtype, nw.Enum):
        return "string"
    if dtype.is_float():
        # pandas turns integers with a missing value into floats: whole numbers stay integers to us.
        values = table.get_column(name).drop_nulls().to_numpy().astype(np.float64)
        if np.all(np.isnan(values) | (values % 1 == 0)):
            return "integer"
    raise DataError(
        f"column {name!r} has the type {dtype}, which cannot be categorical: give it whole numbers, booleans or "
        f"strings, or take it out of {key}"
    )


def _plain(name: str, kind: Kind) -> nw.Expr:
    column = nw.col(name)
    if kind == "boolean":
        return column.cast(nw.Boolean)
    return column.cast(nw.Int64) if kind == "integer" else column.cast(nw.String)


def fit_categories(table: nw.DataFrame[Any], name: str, *, key: str = "columns.categorical") -> CategoryMap:
    """Levels of a column of the training rows; raise a DataError, naming the YAML ``key``, where there are none."""
    nothing = f"column {name!r} holds only missing values on the training rows: take it out of {key}"
    if all_missing(table, name):
        raise DataError(nothing)
    kind = kind_of(table, name, key=key)
    present = table.select(nw.col(name)).drop_nulls()
    if kind == "integer" and table.get_column(name).dtype.is_float():
        present = present.filter(~nw.col(name).is_nan())
    levels = present.select(_plain(name, kind)).get_column(name).unique().sort().to_list()
    if not levels:
        raise DataError(nothing)
    return CategoryMap(kind=kind, levels=tuple(levels))


def codes_of(table: nw.DataFrame[Any], name: str, levels: CategoryMap) -> nw.Expr:
    """Int32 codes of a column, 0 where it is missing or was never seen."""
    column = nw.col(name)
    if all_missing(table, name):
        return column.is_null().cast(nw.Int32) * MISSING
    if table.get_column(name).dtype == nw.Object:
        known: list[Any] = list(levels.levels)
    elif table.get_column(name).dtype.is_float():
        # Compared as floats: pandas has no integer for a missing value.
        known = [float(level) for level in levels.levels]
    elif levels.kind == "string":
        column, known = column.cast(nw.String), list(levels.levels)
    else:
        column, known = column.cast(nw.Int64), [int(level) for level in levels.levels]
    return column.replace_strict(known, list(range(1, levels.size)), default=MISSING, return_dtype=nw.Int32)


def code_arrays(table: nw.DataFrame[Any], groups: dict[str, CategoryMap]) -> dict[str, NDArray[np.integer]]:
    """Codes of several columns as arrays [N]."""
    if not groups:
        return {}
    codes = table.select(*(codes_of(table, name, levels).alias(name) for name, levels in groups.items()))
    return {name: codes.get_column(name).to_numpy() for name in groups}
