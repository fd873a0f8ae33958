"""The roles of a table's columns, its check, and its split into training rows and held-out rows."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, Self

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.errors import DataError
from embedline.frames.checks import (
    DATE_HINT,
    first_row,
    is_number,
    is_string,
    open_frame,
    require_exact,
    require_finite,
    require_numeric,
    require_text,
    settle_objects,
    short,
)
from embedline.pipelines.tabular.options import ClassName, EncodingOptions
from embedline.pipelines.tabular.row_weights import require_weights

TRAIN, TEST, PREDICT = "train", "test", "predict"
SPLIT_COLUMN = "split"  # column of the encoded frame that holds one of these
FEW_NUMBERS = 10  # a target with at most so many distinct whole numbers may hold classes
CONTINUOUS_HINT = "take it out of columns.continuous, or list it in columns.categorical or, of dates, in columns.dates"


class Columns(BaseModel):
    """Roles of the columns of a canonical table. The user decides which variable is categorical.

    Attributes:
        target: the column to predict, or a list of columns that one network predicts together. Strings, categories and
            booleans are classes; numbers are a quantity, unless ``classes`` names the column.
        classes: targets whose numbers are classes.
        positive: the class that F1, ROC-AUC and average precision are computed for, where a target has two classes;
            by default the last in order. With several targets ``{target: class}``.
        dates: variables that are dates or times; each becomes its parts (:class:`.dates.DateParts`).
        text: variables that are free text; each becomes a few numbers (:class:`.texts.TextTopics`).
        inputs: ``auto`` gives every column that is not listed a role (:func:`.roles.infer_roles`).
        id: columns that identify a row; they are kept unencoded.
        time: column with the date or time of a row; it is kept unencoded and orders the plot of the forecast.
        weight: column of numbers from 0 on that weigh the rows in the losses of the network and in the baselines: a row
            of the weight 2 counts as two. Metrics and the encoding of inputs are unweighted, as scikit-learn's metrics
            are where no weights are passed to them. It is no input, and no prediction needs it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    inputs: Literal["auto"] | None = None
    target: str | tuple[str, ...]
    classes: tuple[str, ...] = ()
    positive: ClassName | dict[str, ClassName] | None = None
    id: tuple[str, ...] = ()
    time: str | None = None
    weight: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _need_target(cls, given: Any) -> Any:
        if given == "auto":
            raise ValueError("columns: auto does not say what to predict: columns: {target: <column>, inputs: auto}")
        return given

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        inputs = self.variables
        if not inputs and self.inputs is None:
            raise ValueError(
                "columns needs at least one categorical or continuous variable, or one of dates or text; inputs: auto "
                "finds them"
            )
        repeated = sorted({name for name in inputs if inputs.count(name) > 1})
        if repeated:
            raise ValueError(
                f"columns lists {repeated} more than once: a variable is categorical, continuous, of dates or of text"
            )
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"columns.target must name one or more different columns, got {list(self.targets)}")
        if both := [name for name in self.targets if name in inputs]:
            raise ValueError(f"columns lists the target {both[0]!r} as an input")
        if strange := [name for name in self.classes if name not in self.targets]:
            raise ValueError(f"columns.classes names {strange}, which columns.target does not list")
        if self.positive is not None and not isinstance(self.positive, dict) and len(self.targets) > 1:
            raise ValueError(f"columns.positive needs {{target: class}} for the targets {list(self.targets)}")
        if isinstance(self.positive, dict) and (strange := sorted(set(self.positive) - set(self.targets))):
            raise ValueError(f"columns.positive names {strange}, which columns.target does not list")
        if self.weight in (*inputs, *self.targets):
            raise ValueError(f"columns.weight names {self.weight!r}, which is an input or a target")
        if SPLIT_COLUMN in (*inputs, *self.targets, *self.keys, self.weight):
            raise ValueError(f"columns lists {SPLIT_COLUMN!r}, the name of the column that holds the split")
        return self

    @property
    def variables(self) -> tuple[str, ...]:
        """The listed inputs, role by role."""
        return (*self.categorical, *self.continuous, *self.dates, *self.text)

    @property
    def targets(self) -> tuple[str, ...]:
        """The target columns, one or several."""
        return (self.target,) if isinstance(self.target, str) else self.target

    def positive_of(self, target: str) -> str | None:
        """Name of the positive class of one target, where it is given."""
        given = self.positive.get(target) if isinstance(self.positive, dict) else self.positive
        return None if given is None else str(given)

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that identify a row and travel along unencoded: ids, then time, each once."""
        return tuple(dict.fromkeys([*self.id, *([self.time] if self.time else [])]))


class Split(BaseModel):
    """Which labelled rows are held out as the test split.

    * ``window``: rows with ``start <= column <= end``; ``train: before`` trains strictly before the window (a
      forecast), ``train: others`` on every other row (an interpolation).
    * ``random``: a ``fraction`` of the rows, drawn with ``seed``; where the target has classes, a fraction of each
      class. At least one row of a class stays in the training.
    * ``column``: rows whose ``column`` equals ``value``.
    * ``folds``: every row in turn, for small tables: ``n`` folds, ``repeats`` times over with others. The metrics are
      those of the networks of the folds; the model that is stored learns from all rows.
    * ``none``: nothing is held out: the final fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["window", "random", "column", "folds", "none"]
    column: str | None = None
    start: date | None = None
    end: date | None = None
    train: Literal["before", "others"] = "before"
    value: bool | str | int | None = None
    fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    n: int = Field(default=5, ge=2)
    repeats: int = Field(default=1, ge=1)
    seed: int = 42

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        needed = {"window": ("column", "start", "end"), "column": ("column", "value")}.get(self.kind, ())
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"split.kind {self.kind!r} needs {missing}")
        if self.start and self.end and self.start > self.end:
            raise ValueError(f"split.start {self.start} is after split.end {self.end}")
        return self


def require_columns(frame: nw.DataFrame[Any], names: Sequence[str], *, what: str, key: str) -> None:
    """Raise a DataError that names the missing columns among ``names``, and the YAML ``key`` that lists them."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], frame.columns, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        named = ", ".join(map(repr, missing))
        raise DataError(f"{what} has no column {named}, which {key} names: {hint}It has {frame.columns}")


def require_roles(
    table: nw.DataFrame[Any], columns: Columns, others: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Require every column that has a role; return the columns by the YAML key that names them.

    Args:
        others: further columns by their key, such as ``{"split.column": ["Date"]}``.

    Raises:
        DataError: naming the missing columns and the key.
    """
    roles: dict[str, Sequence[str]] = {
        "columns.categorical": columns.categorical,
        "columns.continuous": columns.continuous,
        "columns.dates": columns.dates,
        "columns.text": columns.text,
        "columns.target": columns.targets,
        "columns.id": columns.id,
        "columns.time": (columns.time,) if columns.time else (),
        "columns.weight": (columns.weight,) if columns.weight else (),
        **others,
    }
    for key, names in roles.items():
        require_columns(table, names, what="the table", key=key)
    return roles


def read_table(
    data: Any, columns: Columns, split: Split, *, others: tuple[tuple[str, tuple[str, ...]], ...] = ()
) -> nw.DataFrame[Any]:
    """Open and check the loaded ``<source>.table``: an eager frame of pandas or Polars.

    All nodes that read the table call this, so that each of them names a faulty column in the same words.

    Args:
        others: further columns that are read, by their YAML key, such as ``("baselines.group_by", ("District",))``.

    Raises:
        DataError: naming the column and, counted from 1, the row of the frame as it was loaded.
    """
    table = open_frame(data)
    split_column = (split.column,) if split.column else ()
    roles = require_roles(table, columns, {"split.column": split_column, **dict(others)})
    table = settle_objects(table, (name for names in roles.values() for name in names))
    for name in columns.continuous:
        require_numeric(table.get_column(name), name, hint=CONTINUOUS_HINT)
        require_finite(table.get_column(name), name)
    for name in columns.targets:
        require_finite(table.get_column(name), name)
        if name not in columns.classes:
            _require_consistent_target(table.get_column(name), name)
    identifying = {
        "columns.categorical": columns.categorical,
        "columns.classes": columns.classes,
        "columns.id": columns.id,
    }
    for key, names in {**identifying, **dict(others)}.items():
        for name in names:
            require_exact(table.get_column(name), name, key)
    if columns.weight:
        require_weights(table, columns.weight, [present(table, name) for name in columns.targets])
    _check_dates(table, columns, split)
    for name in columns.text:
        require_text(table.get_column(name), name)
    return table


def _require_consistent_target(values: nw.Series[Any], name: str) -> None:
    """Raise a DataError if a target is text because of a few values only: else each number would be a class."""
    if values.dtype != nw.String:
        return
    distinct = values.drop_nulls().unique().to_list()
    texts = {value for value in distinct if not is_number(value)}
    if len(distinct) > FEW_NUMBERS and 0 < len(texts) < len(distinct) / 2:
        row = next(row for row, value in enumerate(values.to_list(), start=1) if value in texts)
        raise DataError(
            f"target {name!r} is text, and most of its {len(distinct):,} different values are numbers, but row {row} "
            f"holds {short(values[row - 1])}: correct it, or set columns.classes: [{name}] if they are classes"
        )


def require_logarithms(table: nw.DataFrame[Any], columns: Columns, encoding: EncodingOptions) -> None:
    """Raise a DataError that names the first row without a logarithm of the target, where it is learned as one."""
    for name in columns.targets:
        values = table.get_column(name)
        if encoding.transform_of(name) != "log" or not values.dtype.is_numeric():
            continue
        if (row := first_row(values <= 0)) is not None:
            raise DataError(
                f"target {name!r} has the value {values[row - 1]} at row {row}, which has no logarithm: drop such rows "
                "or set encoding.target_transform to 'none'"
            )


def _check_dates(table: nw.DataFrame[Any], columns: Columns, split: Split) -> None:
    """Raise a DataError if dates are text, or a row lacks the date that splits it."""
    if split.kind == "window":
        name = str(split.column)
        values = table.get_column(name)
        if values.dtype == nw.String:
            hint = DATE_HINT.format(name=name)
            raise DataError(f"split.column {name!r} has the type String; a window needs dates: {hint}")
        if (row := first_row(values.is_null())) is not None:
            count = values.null_count()
            raise DataError(
                f"column {name!r} (split.column) has no date in {count:,} row(s), first in row {row}: a window cannot "
                "place them. Fill them in, or take these rows out"
            )
    if columns.time and table.schema[columns.time] == nw.String:
        hint = DATE_HINT.format(name=columns.time)
        raise DataError(f"column {columns.time!r} (columns.time) holds text, not dates or times: {hint}")
    require_dates(table, columns.dates)


def require_dates(table: nw.DataFrame[Any], names: Iterable[str]) -> None:
    """Raise a DataError that names the first of ``columns.dates`` that holds no dates or times."""
    for name in names:
        if local_times(table, name).dtype not in (nw.Date, nw.Datetime):
            hint = DATE_HINT.format(name=name)
            raise DataError(
                f"column {name!r} (columns.dates) has the type {table.schema[name]}, no dates or times: {hint}"
            )


def present(table: nw.DataFrame[Any], name: str) -> nw.Expr:
    """Whether a column has a value: pandas has NaN for a missing one, Polars may have both."""
    column = nw.col(name)
    return ~column.is_null() & ~column.is_nan() if table.schema[name].is_float() else ~column.is_null()


def local_times(table: nw.DataFrame[Any], name: str) -> nw.Series[Any]:
    """A column of times in local time, without the zone: their days may differ from those in UTC."""
    values = table.get_column(name)
    native = values.to_native()
    # By pandas itself: Narwhals does not know a zone with an underscore, such as America/New_York.
    if table.implementation.is_pandas_like() and getattr(getattr(native, "dt", None), "tz", None) is not None:
        return nw.from_native(native.dt.tz_localize(None), series_only=True)
    zoned = isinstance(values.dtype, nw.Datetime) and values.dtype.time_zone is not None
    return values.dt.replace_time_zone(None) if zoned else values


def holds_classes(table: nw.DataFrame[Any], columns: Columns, target: str) -> bool:
    """Whether a target has classes, by ``columns.classes`` or by its type."""
    dtype = table.schema[target]
    named = is_string(dtype) or dtype == nw.Boolean
    return target in columns.classes or named or boxed_booleans(table, target)


def boxed_booleans(table: nw.DataFrame[Any], name: str) -> bool:
    """Whether a column holds Python booleans: pandas reads them from a CSV in which some are missing."""
    if table.get_column(name).dtype != nw.Object:
        return False
    return all(isinstance(value, bool) for value in table.get_column(name).drop_nulls().unique().to_list())


def class_numbers(table: nw.DataFrame[Any], name: str) -> NDArray[np.int64]:
    """Number of each value among the sorted distinct values of a column, as text, int64 [N]; -1 if missing."""
    values = table.select(nw.when(present(table, name)).then(nw.col(name)).alias(name)).get_column(name).to_polars()
    texts = values.cast(pl.String)
    return texts.cast(pl.Enum(texts.drop_nulls().unique().sort())).to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
