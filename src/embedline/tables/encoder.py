"""Fit and apply the encoding of a table: the ``proc_df`` of the lessons, with its state kept as an artifact."""

from typing import Any, Literal

import narwhals as nw
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.tables.columns import PART, Columns, require_columns

MISSING = 0  # code of a missing level and of one never seen in training
FLAG = "_na"  # suffix of the category that marks a filled-in continuous value
TINY = 1e-7  # keeps a constant column's scale from dividing by zero

Kind = Literal["boolean", "integer", "string"]


class EncodingOptions(BaseModel):
    """How the target is learned: ``log`` for positive targets whose relative error matters, else ``none``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_transform: Literal["log", "none"] = "none"


class CategoryMap(BaseModel):
    """Levels of a categorical variable in sorted order: level ``levels[k]`` has the code ``k + 1``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    levels: tuple[bool | int | str, ...]

    @property
    def size(self) -> int:
        """Rows of the embedding table: the levels and one for missing or unseen."""
        return len(self.levels) + 1


class Scale(BaseModel):
    """Median to fill in, and mean and population standard deviation to standardise by, of the training rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float
    mean: float
    std: float


class TargetScale(BaseModel):
    """Transform of the target and, of the transformed training values, mean, deviation and maximum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    transform: Literal["log", "none"]
    mean: float
    std: float
    maximum: float


class Encoder(BaseModel):
    """Fitted state of the encoding; JSON through ``model_dump(mode="json")`` and ``model_validate``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: dict[str, CategoryMap]
    continuous: dict[str, Scale]
    flags: tuple[str, ...]
    keys: tuple[str, ...]
    target: TargetScale

    @property
    def code_columns(self) -> tuple[str, ...]:
        """Columns of codes of the encoded frame: the categorical variables, then the missing-value flags."""
        return (*self.categorical, *(name + FLAG for name in self.flags))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Embedding rows of each code column; a flag has the levels no and yes besides row 0."""
        return (*(levels.size for levels in self.categorical.values()), *(3 for _ in self.flags))


def fit_encoder(table: nw.DataFrame[Any], columns: Columns, options: EncodingOptions) -> Encoder:
    """Learn levels, medians, scales and the target's scale from the rows of ``table``: training rows only.

    Args:
        table: labelled training rows; every column of ``columns``.

    Raises:
        DataError: naming the column that is missing, has a wrong type, holds an infinite value or only nulls, or a
            target that its transform cannot take.
    """
    inputs = (*columns.categorical, *columns.continuous)
    require_columns(table, (*inputs, columns.target, *columns.keys), what="the table")
    categorical = {name: _fit_categories(table, name) for name in columns.categorical}
    numbers = table.select(*(_number(table, name) for name in (*columns.continuous, columns.target)))
    _refuse_infinite(numbers)
    scales = {name: _fit_scale(numbers.get_column(name)) for name in columns.continuous}
    flags = tuple(name for name in columns.continuous if numbers.get_column(name).null_count() > 0)
    target = _fit_target(numbers.get_column(columns.target), options)
    return Encoder(categorical=categorical, continuous=scales, flags=flags, keys=columns.keys, target=target)


def encode(table: nw.DataFrame[Any], encoder: Encoder) -> nw.DataFrame[Any]:
    """Apply a fitted encoding to any frame with the same inputs.

    Returns:
        The key columns and ``part`` where ``table`` has them, the target (Float64, untransformed) where it has it,
        an Int32 column ``code:<name>`` for each of ``encoder.code_columns``, a standardised Float32 column
        ``value:<name>`` for each continuous variable. Rows keep their order.

    DIFF(fastai): scales come from training rows alone, and the missing-value flags are categories (v2), not continuous
    inputs (v0.7).

    Raises:
        DataError: naming the column that is missing, has a wrong type or holds an infinite value.
    """
    require_columns(table, (*encoder.categorical, *encoder.continuous), what="the frame to encode")
    for name, levels in encoder.categorical.items():
        found = _kind(table, name)
        if found != levels.kind:
            raise DataError(f"column {name!r} holds {found} values; it was fitted on {levels.kind} values")
    target = encoder.target.column
    numeric = [*encoder.continuous, *([target] if target in table.columns else [])]
    _refuse_infinite(table.select(*(_number(table, name) for name in numeric)))
    expressions = [nw.col(name) for name in (*encoder.keys, PART) if name in table.columns and name not in numeric]
    if target in table.columns:
        expressions.append(_number(table, target))
    # A key may be an input too (Store is an id and a variable): its codes go to a column of their own name below.
    codes = [_codes(table, name, levels).alias(code_name(name)) for name, levels in encoder.categorical.items()]
    marks = [
        (_number(table, name).is_null().cast(nw.Int32) + 1).alias(code_name(name + FLAG)) for name in encoder.flags
    ]
    scaled = [
        ((_number(table, name).fill_null(scale.median) - scale.mean) / (scale.std + TINY))
        .cast(nw.Float32)
        .alias(value_name(name))
        for name, scale in encoder.continuous.items()
    ]
    return table.select(*expressions, *codes, *marks, *scaled)


def code_name(variable: str) -> str:
    """Column of the encoded frame that holds the codes of ``variable``."""
    return f"code:{variable}"


def value_name(variable: str) -> str:
    """Column of the encoded frame that holds the standardised values of ``variable``."""
    return f"value:{variable}"


def _kind(table: nw.DataFrame[Any], name: str) -> Kind:
    dtype = table.schema[name]
    if dtype == nw.Boolean:
        return "boolean"
    if dtype.is_integer():
        return "integer"
    if dtype in (nw.String, nw.Categorical, nw.Enum) or isinstance(dtype, nw.Enum):
        return "string"
    if dtype.is_float():
        # pandas turns integers with a missing value into floats: whole numbers stay integers to us.
        values = table.get_column(name)
        whole = values.is_null() | values.is_nan() | (values % 1 == 0)
        if whole.all():
            return "integer"
    raise DataError(
        f"column {name!r} has the type {dtype}, which cannot be categorical: give it whole numbers, booleans or "
        "strings, or declare it continuous"
    )


def _plain(name: str, kind: Kind) -> nw.Expr:
    column = nw.col(name)
    if kind == "boolean":
        return column.cast(nw.Boolean)
    return column.cast(nw.Int64) if kind == "integer" else column.cast(nw.String)


def _fit_categories(table: nw.DataFrame[Any], name: str) -> CategoryMap:
    kind = _kind(table, name)
    present = table.select(nw.col(name)).drop_nulls()
    if kind == "integer" and table.schema[name].is_float():
        present = present.filter(~nw.col(name).is_nan())
    levels = present.select(_plain(name, kind)).get_column(name).unique().sort().to_list()
    if not levels:
        raise DataError(f"column {name!r} holds only missing values on the training rows: remove it from the list")
    return CategoryMap(kind=kind, levels=tuple(levels))


def _codes(table: nw.DataFrame[Any], name: str, levels: CategoryMap) -> nw.Expr:
    column = nw.col(name)
    if table.schema[name].is_float():
        column = nw.when(~column.is_nan()).then(column).cast(nw.Int64)
    else:
        column = column.cast(nw.String if levels.kind == "string" else nw.Int64)
    known = [int(level) if levels.kind == "boolean" else level for level in levels.levels]
    return column.replace_strict(known, list(range(1, levels.size)), default=MISSING, return_dtype=nw.Int32)


def _number(table: nw.DataFrame[Any], name: str) -> nw.Expr:
    """Float64 with null for NaN; raise where the type is not numeric."""
    dtype = table.schema[name]
    if not (dtype.is_numeric() or dtype == nw.Boolean):
        raise DataError(f"column {name!r} has the type {dtype}; a continuous variable or target must be numeric")
    number = nw.col(name).cast(nw.Float64)
    return nw.when(~number.is_nan()).then(number).alias(name) if dtype.is_float() else number


def _refuse_infinite(numbers: nw.DataFrame[Any]) -> None:
    bounds = numbers.select(nw.all().abs().max()).row(0)
    for name, bound in zip(numbers.columns, bounds, strict=True):
        if bound is not None and bound == float("inf"):
            row = numbers.get_column(name).abs().to_list().index(float("inf"))
            raise DataError(f"column {name!r} holds an infinite value at row {row}")


def _fit_scale(values: nw.Series[Any]) -> Scale:
    if values.null_count() == len(values):
        raise DataError(f"column {values.name!r} holds only missing values on the training rows: remove it")
    median = float(values.median())
    filled = values.fill_null(median)
    return Scale(median=median, mean=float(filled.mean()), std=float(filled.std(ddof=0)))


def _fit_target(values: nw.Series[Any], options: EncodingOptions) -> TargetScale:
    import numpy as np

    if values.null_count():
        raise DataError(f"target {values.name!r} has {values.null_count()} missing values on the training rows")
    numbers = values.to_numpy()
    if options.target_transform == "log":
        if numbers.min() <= 0:
            raise DataError(
                f"target {values.name!r} has the value {numbers.min()}, which has no logarithm: drop these rows or set "
                "encoding.target_transform to 'none'"
            )
        numbers = np.log(numbers)
    return TargetScale(
        column=values.name,
        transform=options.target_transform,
        mean=float(numbers.mean()),
        std=float(numbers.std()) or 1.0,
        maximum=float(numbers.max()),
    )
