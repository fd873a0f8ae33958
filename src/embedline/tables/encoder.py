"""Fit and apply the encoding of a table: the ``proc_df`` of the lessons, with its state kept as an artifact."""

from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from embedline.errors import DataError
from embedline.tables.categories import CategoryMap, all_missing, code_arrays, codes_of, fit_categories, kind_of
from embedline.tables.columns import PART, Columns, require_columns
from embedline.tables.scales import TINY, Scale, TargetScale, spread
from embedline.tables.target_means import TargetMeans, fit_target_means

FLAG = "_na"  # suffix of the category that marks a filled-in continuous value


class EncodingOptions(BaseModel):
    """What the encoding learns beside levels, medians and scales.

    Attributes:
        target_transform: ``log`` for positive targets whose relative error matters, else ``none``.
        target_means: lists of columns; each adds a continuous input, the mean of the transformed target of the row's
            group on the training rows (:class:`embedline.tables.target_means.TargetMeans`).
        smoothing: rows of the wider group that each group's mean is mixed with.
        fill: value of a continuous variable where it is missing, instead of the median and a flag. For a value that is
            missing for a known reason: a flag that is rare in training and common later would be learned from few rows.
        limits: lowest and highest value of a continuous variable; values beyond count as these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_transform: Literal["log", "none"] = "none"
    target_means: tuple[tuple[str, ...], ...] = ()
    smoothing: float = Field(default=20.0, gt=0.0)
    fill: dict[str, float] = {}
    limits: dict[str, tuple[float, float]] = {}

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in limits.items():
            if low >= high:
                raise ValueError(f"limits of {name} must rise, got [{low}, {high}]")
        return limits

    @field_validator("target_means")
    @classmethod
    def _check_groups(cls, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if any(not group or len(set(group)) < len(group) for group in groups) or len(set(groups)) < len(groups):
            raise ValueError("target_means needs lists of different columns, each list once")
        return groups


class Encoder(BaseModel):
    """Fitted state of the encoding; JSON through ``model_dump(mode="json")`` and ``model_validate``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: dict[str, CategoryMap]
    continuous: dict[str, Scale]
    flags: tuple[str, ...]
    keys: tuple[str, ...]
    target: TargetScale
    groups: dict[str, CategoryMap] = {}
    target_means: tuple[TargetMeans, ...] = ()

    @property
    def code_columns(self) -> tuple[str, ...]:
        """Columns of codes of the encoded frame: the categorical variables, then the missing-value flags."""
        return (*self.categorical, *(name + FLAG for name in self.flags))

    @property
    def value_columns(self) -> tuple[str, ...]:
        """Columns of values of the encoded frame: the continuous variables, then the target means."""
        return (*self.continuous, *(means.name for means in self.target_means))

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
    grouped = tuple(dict.fromkeys(name for group in options.target_means for name in group))
    inputs = (*columns.categorical, *columns.continuous, *grouped)
    require_columns(table, (*inputs, columns.target, *columns.keys), what="the table")
    if columns.target in grouped:
        raise DataError(f"encoding.target_means groups by the target {columns.target!r}")
    categorical = {name: fit_categories(table, name) for name in columns.categorical}
    numbers = table.select(*(_number(table, name) for name in (*columns.continuous, columns.target)))
    _refuse_infinite(numbers)
    _check_names(options, columns)
    scales = {name: _fit_scale(numbers.get_column(name), options) for name in columns.continuous}
    flags = tuple(
        name for name in columns.continuous if numbers.get_column(name).null_count() > 0 and name not in options.fill
    )
    clashes = [name + FLAG for name in flags if name + FLAG in categorical]
    if clashes:
        raise DataError(f"columns.categorical lists {clashes}, names that mark filled-in values: rename these columns")
    learned = _transformed(numbers.get_column(columns.target), options)
    groups = {name: categorical.get(name) or fit_categories(table, name) for name in grouped}
    codes, sizes = code_arrays(table, groups), {name: levels.size for name, levels in groups.items()}
    return Encoder(
        categorical=categorical,
        continuous=scales,
        flags=flags,
        keys=columns.keys,
        target=_fit_target(columns.target, learned, options),
        groups=groups,
        target_means=tuple(
            fit_target_means(codes, sizes, group, learned, options.smoothing) for group in options.target_means
        ),
    )


def encode(table: nw.DataFrame[Any], encoder: Encoder) -> nw.DataFrame[Any]:
    """Apply a fitted encoding to any frame with the same inputs.

    Returns:
        The key columns and ``part`` where ``table`` has them, the target (Float64, untransformed) where it has it,
        an Int32 column ``code:<name>`` for each of ``encoder.code_columns``, a standardised Float32 column
        ``value:<name>`` for each of ``encoder.value_columns``. Rows keep their order.

    DIFF(fastai): scales come from training rows alone, and the missing-value flags are categories (v2), not continuous
    inputs (v0.7).

    Raises:
        DataError: naming the column that is missing, has a wrong type or holds an infinite value.
    """
    require_columns(table, (*encoder.categorical, *encoder.continuous, *encoder.groups), what="the frame to encode")
    for name, levels in {**encoder.groups, **encoder.categorical}.items():
        if not all_missing(table, name) and (found := kind_of(table, name)) != levels.kind:
            raise DataError(f"column {name!r} holds {found} values; it was fitted on {levels.kind} values")
    target = encoder.target.column
    numeric = [*encoder.continuous, *([target] if target in table.columns else [])]
    numbers = table.select(*(_number(table, name) for name in numeric))
    _refuse_infinite(numbers)
    if target in table.columns and encoder.target.transform == "log":
        _refuse_no_logarithm(numbers.get_column(target))
    expressions = [nw.col(name) for name in (*encoder.keys, PART) if name in table.columns and name != target]
    if target in table.columns:
        expressions.append(_number(table, target))
    # A key may be an input too (Store is an id and a variable): its codes go to a column of their own name below.
    codes = [codes_of(table, name, levels).alias(code_name(name)) for name, levels in encoder.categorical.items()]
    marks = [
        (_number(table, name).is_null().cast(nw.Int32) + 1).alias(code_name(name + FLAG)) for name in encoder.flags
    ]
    scaled = [
        ((scale.complete(_number(table, name)) - scale.mean) / (scale.std + TINY))
        .cast(nw.Float32)
        .alias(value_name(name))
        for name, scale in encoder.continuous.items()
    ]
    encoded = table.select(*expressions, *codes, *marks, *scaled)
    grouped = code_arrays(table, encoder.groups)
    return encoded.with_columns(
        nw.new_series(
            value_name(means.name),
            ((means.values(grouped) - means.mean) / (means.std + TINY)).astype(np.float32),
            nw.Float32,
            backend=table.implementation,
        )
        for means in encoder.target_means
    )


def code_name(variable: str) -> str:
    """Column of the encoded frame that holds the codes of ``variable``."""
    return f"code:{variable}"


def value_name(variable: str) -> str:
    """Column of the encoded frame that holds the standardised values of ``variable``."""
    return f"value:{variable}"


def _number(table: nw.DataFrame[Any], name: str) -> nw.Expr:
    """Float64 with null for NaN; raise where the type is not numeric."""
    dtype = table.schema[name]
    if not (dtype.is_numeric() or dtype == nw.Boolean or all_missing(table, name)):
        raise DataError(f"column {name!r} has the type {dtype}; a continuous variable or target must be numeric")
    number = nw.col(name).cast(nw.Float64)
    return nw.when(~number.is_nan()).then(number).alias(name) if dtype.is_float() else number


def _refuse_infinite(numbers: nw.DataFrame[Any]) -> None:
    for name in numbers.columns:
        infinite = numbers.get_column(name).abs() == float("inf")
        if infinite.fill_null(False).any():
            row = infinite.to_list().index(True)
            raise DataError(f"column {name!r} holds an infinite value at row {row}")


def _check_names(options: EncodingOptions, columns: Columns) -> None:
    for key in ("fill", "limits"):
        unknown = sorted(set(getattr(options, key)) - set(columns.continuous))
        if unknown:
            raise DataError(f"encoding.{key} names {unknown}, which columns.continuous does not list")


def _fit_scale(values: nw.Series[Any], options: EncodingOptions) -> Scale:
    if values.null_count() == len(values):
        raise DataError(f"column {values.name!r} holds only missing values on the training rows: remove it")
    limits = options.limits.get(values.name)
    limited = values.clip(*limits) if limits else values
    fill = options.fill.get(values.name, float(limited.median()))
    filled = limited.fill_null(fill)
    mean = float(filled.mean())
    return Scale(fill=fill, mean=mean, std=spread(float(filled.std(ddof=0)), mean), limits=limits)


def _refuse_no_logarithm(values: nw.Series[Any]) -> None:
    present = values.drop_nulls()
    if len(present) and (smallest := present.min()) <= 0:
        raise DataError(
            f"target {values.name!r} has the value {smallest}, which has no logarithm: drop these rows or set "
            "encoding.target_transform to 'none'"
        )


def _transformed(values: nw.Series[Any], options: EncodingOptions) -> NDArray[np.float64]:
    if values.null_count():
        raise DataError(f"target {values.name!r} has {values.null_count()} missing values on the training rows")
    if options.target_transform == "log":
        _refuse_no_logarithm(values)
        return np.asarray(np.log(values.to_numpy()))
    return np.asarray(values.to_numpy())


def _fit_target(name: str, learned: NDArray[np.float64], options: EncodingOptions) -> TargetScale:
    mean = float(learned.mean())
    return TargetScale(
        column=name,
        transform=options.target_transform,
        mean=mean,
        std=spread(float(learned.std()), mean),
        maximum=float(learned.max()),
    )
