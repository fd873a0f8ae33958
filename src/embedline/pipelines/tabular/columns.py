"""What a table's columns are for, and which rows train and which are evaluated."""

import difflib
import functools
import operator
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, Self

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.errors import DataError
from embedline.pipelines.tabular.categories import boxed_booleans

TRAIN, TEST, PREDICT = "train", "test", "predict"
SPLIT_COLUMN = "split"  # column of the encoded frame that holds one of these


Name = bool | int | str  # of a class: YAML reads that of a number or of yes and no as such


class Columns(BaseModel):
    """Roles of the columns of a canonical table; which variable is categorical is the user's decision.

    Attributes:
        target: what is predicted: one column, or a list of columns that one network predicts together. A column of
            strings, categories or booleans holds classes; one of numbers is a quantity, unless ``classes`` names it.
        classes: targets whose numbers are classes.
        positive: of a target with two classes the one that F1, ROC-AUC and average precision are of, the last in order
            unless given; with several targets ``{target: class}``.
        id: columns that identify a row; they travel along unencoded.
        time: column with the row's date or time; it travels along and orders the forecast's plot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()
    target: str | tuple[str, ...]
    classes: tuple[str, ...] = ()
    positive: Name | dict[str, Name] | None = None
    id: tuple[str, ...] = ()
    time: str | None = None

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        inputs = [*self.categorical, *self.continuous]
        if not inputs:
            raise ValueError("columns needs at least one categorical or continuous variable")
        repeated = sorted({name for name in inputs if inputs.count(name) > 1})
        if repeated:
            raise ValueError(f"columns lists {repeated} more than once: a variable is categorical or continuous")
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
        if SPLIT_COLUMN in (*inputs, *self.targets, *self.keys):
            raise ValueError(f"columns lists {SPLIT_COLUMN!r}, the name under which the parts of the split are stored")
        return self

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
    """Which labelled rows are held out for evaluation.

    * ``window``: rows with ``start <= column <= end`` are evaluated; ``train: before`` trains strictly before the
      window (a forecast), ``train: others`` on every other row (an interpolation).
    * ``random``: a ``fraction`` of the rows, drawn with ``seed``; where the target has classes, of the rows of each
      class. A class keeps one row to train on at least.
    * ``column``: rows whose ``column`` equals ``value``.
    * ``none``: nothing is held out: the final fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["window", "random", "column", "none"]
    column: str | None = None
    start: date | None = None
    end: date | None = None
    train: Literal["before", "others"] = "before"
    value: bool | str | int | None = None
    fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
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
    """Raise a DataError that names the columns of ``names`` that ``frame`` lacks, and the YAML ``key`` to mend."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], frame.columns, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        named = ", ".join(map(repr, missing))
        raise DataError(f"{what} has no column {named}, which {key} names: {hint}It has {frame.columns}")


def require_roles(
    table: nw.DataFrame[Any], columns: Columns, others: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """The columns that ``table`` must have, by the YAML key that names them.

    Args:
        others: further columns by their key, such as ``{"split.column": ["Date"]}``.

    Raises:
        DataError: naming the columns that it lacks, and the key.
    """
    roles: dict[str, Sequence[str]] = {
        "columns.categorical": columns.categorical,
        "columns.continuous": columns.continuous,
        "columns.target": columns.targets,
        "columns.id": columns.id,
        "columns.time": (columns.time,) if columns.time else (),
        **others,
    }
    for key, names in roles.items():
        require_columns(table, names, what="the table", key=key)
    return roles


def assign_splits(table: nw.DataFrame[Any], columns: Columns, split: Split) -> nw.DataFrame[Any]:
    """Add the column ``split``: ``train``, ``evaluate`` or, where a target is missing, ``predict``.

    Rows of no part are dropped.

    Raises:
        DataError: if a column is missing or a part that the split promises is empty.
    """
    require_columns(table, columns.targets, what="the table", key="columns.target")
    require_columns(table, [split.column] if split.column else [], what="the table", key="split.column")
    labelled = functools.reduce(operator.and_, (present(table, name) for name in columns.targets))
    _check_type(table, split)
    own = nw.generate_temporary_column_name(8, table.columns)
    if split.kind == "none":
        held_out, used = nw.lit(False), nw.lit(True)
    elif split.kind == "window":
        table = table.with_columns(_local_times(table, str(split.column)).alias(own))
        when = nw.col(own).cast(nw.Date)
        held_out = (when >= split.start) & (when <= split.end)
        used = (when <= split.end) if split.train == "before" else nw.lit(True)
    elif split.kind == "column":
        held_out, used = nw.col(str(split.column)) == split.value, nw.lit(True)
    else:
        table = table.with_columns(_random_flags(table, columns, split).alias(own))
        held_out, used = nw.col(own), nw.lit(True)
    part = (
        nw.when(~labelled)
        .then(nw.lit(PREDICT))
        .otherwise(nw.when(held_out).then(nw.lit(TEST)).otherwise(nw.lit(TRAIN)))
    )
    parts = table.filter(~labelled | used).with_columns(part.alias(SPLIT_COLUMN))
    counts = dict(parts.group_by(SPLIT_COLUMN).agg(nw.len().alias("rows")).rows())
    for name in (TRAIN, *([] if split.kind == "none" else [TEST])):
        if not counts.get(name):
            raise DataError(f"the split {split.model_dump(exclude_defaults=True)} leaves no labelled row to {name}")
    return parts.drop(own, strict=False)


def present(table: nw.DataFrame[Any], name: str) -> nw.Expr:
    """Whether a column has a value: pandas has NaN for a missing one, Polars may have both."""
    column = nw.col(name)
    return ~column.is_null() & ~column.is_nan() if table.schema[name].is_float() else ~column.is_null()


def _local_times(table: nw.DataFrame[Any], name: str) -> nw.Series[Any]:
    """A column of times as the table shows them, without a time zone: their days are not those of UTC."""
    values = table.get_column(name)
    native = values.to_native()
    # Of pandas by pandas itself: Narwhals does not know a zone with an underscore, such as America/New_York.
    if table.implementation.is_pandas_like() and getattr(getattr(native, "dt", None), "tz", None) is not None:
        return nw.from_native(native.dt.tz_localize(None), series_only=True)
    zoned = isinstance(values.dtype, nw.Datetime) and values.dtype.time_zone is not None
    return values.dt.replace_time_zone(None) if zoned else values


def _check_type(table: nw.DataFrame[Any], split: Split) -> None:
    """Raise a DataError if the split's column does not hold what it is compared with."""
    dtype = table.schema[split.column] if split.column else None
    times = _local_times(table, str(split.column)).dtype if split.kind == "window" else None
    if split.kind == "window" and times not in (nw.Date, nw.Datetime, nw.Object):  # pandas has dates as objects
        raise DataError(f"split.column {split.column!r} has the type {dtype}; a window needs dates")
    if split.kind == "column" and dtype is not None:
        numeric, boolean = dtype.is_numeric(), dtype == nw.Boolean
        fits = {bool: boolean, int: numeric, str: not numeric and not boolean}[type(split.value)]
        if not fits:
            raise DataError(f"split.value {split.value!r} is not of the type of column {split.column!r}, {dtype}")


def holds_classes(table: nw.DataFrame[Any], columns: Columns, target: str) -> bool:
    """Whether a target has classes: by ``columns.classes`` or by its type."""
    dtype = table.schema[target]
    named = dtype in (nw.String, nw.Categorical, nw.Enum, nw.Boolean) or isinstance(dtype, nw.Enum)
    return target in columns.classes or named or boxed_booleans(table, target)


def _random_flags(table: nw.DataFrame[Any], columns: Columns, split: Split) -> nw.Series[Any]:
    """Whether each row is held out: a share of all rows, or of each class of the first target that has classes."""
    drawn = np.random.default_rng(split.seed).random(len(table))
    held_out = drawn < split.fraction
    known = table.select(functools.reduce(operator.and_, (present(table, name) for name in columns.targets)))
    labelled = np.flatnonzero(known.get_column(known.columns[0]).to_numpy())
    classes = [_class_numbers(table, name) for name in columns.targets if holds_classes(table, columns, name)]
    if classes and len(labelled):
        numbers = classes[0][labelled]
        order = np.lexsort((drawn[labelled], numbers))  # class by class, the rows with the smallest draws first
        counts = np.bincount(numbers)
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Rounded in sum, so that of many small classes some rows are held out, too.
        shares = np.diff(np.rint(split.fraction * np.cumsum(counts)), prepend=0.0)
        n_held_out = np.minimum(shares, np.maximum(counts - 1, 0))
        held_out[labelled[order]] = place < np.repeat(n_held_out, counts)
    for numbers in classes:  # of further targets, too, no class is held out whole
        trained = set(numbers[labelled[~held_out[labelled]]])
        for number in set(numbers[labelled]) - trained:
            rows = labelled[numbers[labelled] == number]
            held_out[rows[drawn[rows].argmax()]] = False
    return nw.new_series("held_out", held_out, nw.Boolean, backend=table.implementation)


def _class_numbers(table: nw.DataFrame[Any], name: str) -> NDArray[np.int64]:
    """The place of each value among the different ones of a column, as text, int64 [N], -1 where it is missing."""
    values = table.select(nw.when(present(table, name)).then(nw.col(name)).alias(name)).get_column(name).to_polars()
    texts = values.cast(pl.String)
    return texts.cast(pl.Enum(texts.drop_nulls().unique().sort())).to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
