"""What a table's columns are for, and which rows train and which are evaluated."""

from datetime import date
from typing import Any, Literal, Self

import narwhals as nw
from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.errors import DataError

TRAIN, EVALUATE, PREDICT = "train", "evaluate", "predict"
PART = "part"  # column of the encoded frame that holds one of these


class Columns(BaseModel):
    """Roles of the columns of a canonical table; which variable is categorical is the user's decision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()
    target: str
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
        if self.target in inputs:
            raise ValueError(f"columns lists the target {self.target!r} as an input")
        if PART in (*inputs, self.target, *self.keys):
            raise ValueError(f"columns lists {PART!r}, the name under which the parts of the split are stored")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that identify a row and travel along unencoded: ids, then time, each once."""
        return tuple(dict.fromkeys([*self.id, *([self.time] if self.time else [])]))


class Split(BaseModel):
    """Which labelled rows are held out for evaluation.

    * ``window``: rows with ``start <= column <= end`` are evaluated; ``train: before`` trains strictly before the
      window (a forecast), ``train: others`` on every other row (an interpolation).
    * ``random``: a ``fraction`` of the rows, drawn with ``seed``.
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


def require_columns(frame: nw.DataFrame[Any], names: tuple[str, ...], *, what: str) -> None:
    """Raise a DataError that names the first columns of ``names`` that ``frame`` lacks."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DataError(f"{what} has no column {', '.join(map(repr, missing))}; it has {frame.columns}")


def assign_parts(table: nw.DataFrame[Any], columns: Columns, split: Split) -> nw.DataFrame[Any]:
    """Add the column ``part``: ``train``, ``evaluate`` or, without a target, ``predict``; drop rows of no part.

    Raises:
        DataError: if a column is missing or a part that the split promises is empty.
    """
    require_columns(table, (columns.target, *([split.column] if split.column else [])), what="the table")
    labelled = ~nw.col(columns.target).is_null()
    if table.schema[columns.target].is_float():  # pandas has NaN for missing, Polars may have both
        labelled = labelled & ~nw.col(columns.target).is_nan()
    _check_type(table, split)
    if split.kind == "none":
        held_out, used = nw.lit(False), nw.lit(True)
    elif split.kind == "window":
        when = nw.col(str(split.column)).cast(nw.Date)
        held_out = (when >= split.start) & (when <= split.end)
        used = (when <= split.end) if split.train == "before" else nw.lit(True)
    elif split.kind == "column":
        held_out, used = nw.col(str(split.column)) == split.value, nw.lit(True)
    else:
        table = table.with_columns(_random_flags(table, split).alias("_held_out"))
        held_out, used = nw.col("_held_out"), nw.lit(True)
    part = (
        nw.when(~labelled)
        .then(nw.lit(PREDICT))
        .otherwise(nw.when(held_out).then(nw.lit(EVALUATE)).otherwise(nw.lit(TRAIN)))
    )
    parts = table.filter(~labelled | used).with_columns(part.alias(PART))
    counts = dict(parts.group_by(PART).agg(nw.len().alias("rows")).rows())
    for name in (TRAIN, *([] if split.kind == "none" else [EVALUATE])):
        if not counts.get(name):
            raise DataError(f"the split {split.model_dump(exclude_defaults=True)} leaves no labelled row to {name}")
    return parts.drop("_held_out", strict=False)


def _check_type(table: nw.DataFrame[Any], split: Split) -> None:
    """Raise a DataError if the split's column does not hold what it is compared with."""
    dtype = table.schema[split.column] if split.column else None
    if split.kind == "window" and dtype not in (nw.Date, nw.Datetime, nw.Object):  # pandas has dates as objects
        raise DataError(f"split.column {split.column!r} has the type {dtype}; a window needs dates")
    if split.kind == "column" and dtype is not None:
        numeric, boolean = dtype.is_numeric(), dtype == nw.Boolean
        fits = {bool: boolean, int: numeric, str: not numeric and not boolean}[type(split.value)]
        if not fits:
            raise DataError(f"split.value {split.value!r} is not of the type of column {split.column!r}, {dtype}")


def _random_flags(table: nw.DataFrame[Any], split: Split) -> nw.Series[Any]:
    import numpy as np

    drawn = np.random.default_rng(split.seed).random(len(table)) < split.fraction
    return nw.new_series("_held_out", drawn, nw.Boolean, backend=table.implementation)
