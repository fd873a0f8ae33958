"""Categories and targets: levels with their codes, and what is predicted, a number or a class.

Both are fitted on the training rows alone. A *prediction* of a target is float64 [N] in the units of a number, its
quantiles float64 [N, Q] that rise along a row, or the probabilities float64 [N, C] of C classes.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from embedline.errors import DataError
from embedline.frames.checks import as_float, is_string, require_exact, require_finite
from embedline.pipelines.tabular.columns import FEW_NUMBERS, Columns, boxed_booleans, holds_classes, present
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.row_weights import training_weights

MISSING = 0  # code of a missing level and of one that training did not see
UNKNOWN = "(missing or unseen)"  # name of that code
UNLABELLED = -1  # class of a row without one
EPSILON = 1e-7  # added to the standard deviation that divides, as in the lessons
ROUNDING = 1e-12  # a deviation below this share of the mean is what float64 leaves of a constant

Kind = Literal["boolean", "integer", "string"]
Array = NDArray[np.float64]

logger = logging.getLogger(__name__)


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
    """Whether a column has no value at all: its type then depends on the backend, and says nothing."""
    return table.get_column(name).null_count() == len(table)


def kind_of(table: nw.DataFrame[Any], name: str, *, key: str = "columns.categorical") -> Kind:
    """Kind of the values of a column; raise a DataError that names the YAML ``key`` if they cannot be categories."""
    dtype = table.get_column(name).dtype
    require_exact(table.get_column(name), name, key)
    if dtype == nw.Boolean or boxed_booleans(table, name):
        return "boolean"
    if dtype.is_integer():
        return "integer"
    if is_string(dtype):
        return "string"
    if dtype.is_float():
        # pandas turns integers with a missing value into floats: whole numbers count as integers.
        values = table.get_column(name).drop_nulls().to_numpy().astype(np.float64)
        if np.all(np.isnan(values) | (values % 1 == 0)):
            return "integer"
    raise DataError(
        f"column {name!r} has the type {dtype}, which cannot be categorical: give it whole numbers, booleans or "
        f"strings, or take it out of {key}; dates belong in columns.dates"
    )


def _plain(name: str, kind: Kind) -> nw.Expr:
    column = nw.col(name)
    if kind == "boolean":
        return column.cast(nw.Boolean)
    return column.cast(nw.Int64) if kind == "integer" else column.cast(nw.String)


def fit_categories(
    table: nw.DataFrame[Any], name: str, *, key: str = "columns.categorical", min_count: int = 1
) -> CategoryMap:
    """Levels of a column of the training rows, those in ``min_count`` rows or more, or in the most rows of all.

    Raises:
        DataError: that names the YAML ``key``, if there are none.
    """
    nothing = f"column {name!r} holds only missing values on the training rows: take it out of {key}"
    if all_missing(table, name):
        raise DataError(nothing)
    kind = kind_of(table, name, key=key)
    present = table.select(nw.col(name)).drop_nulls()
    if kind == "integer" and table.get_column(name).dtype.is_float():
        present = present.filter(~nw.col(name).is_nan())
    values = present.select(_plain(name, kind)).get_column(name)
    if min_count > 1 and len(values):
        counts = dict(values.value_counts(name="rows").rows())
        least = min(min_count, max(counts.values()))
        levels = sorted(level for level, rows in counts.items() if rows >= least)
    else:
        levels = values.unique().sort().to_list()
    if not levels:
        raise DataError(nothing)
    return CategoryMap(kind=kind, levels=tuple(levels))


def category_codes(table: nw.DataFrame[Any], name: str, levels: CategoryMap) -> nw.Expr:
    """Int32 codes of a column, 0 where the value is missing or training did not see it."""
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


class NumericTarget(BaseModel):
    """A number: its transform, and mean, standard deviation and maximum of the transformed training values.

    The first two are weighted where the rows have weights, and rows of the weight 0 are left out of all three.

    Attributes:
        quantiles: levels that are predicted, in place of a mean; the median is one of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    transform: Literal["log", "none"]
    mean: float
    std: float
    maximum: float
    quantiles: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Outputs of the network."""
        return max(1, len(self.quantiles))

    @property
    def stored(self) -> str:
        """Column of the encoded frame: the target's own, untransformed."""
        return self.column


class ClassTarget(BaseModel):
    """Classes in sorted order with their numbers of training rows.

    Attributes:
        positive: of two classes the one that F1, ROC-AUC and average precision are computed for; None for the last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    levels: CategoryMap
    counts: tuple[int, ...]
    positive: str | None = None

    @property
    def width(self) -> int:
        """Outputs of the network, one a class."""
        return len(self.levels.levels)

    @property
    def stored(self) -> str:
        """Column of the encoded frame: Int32 numbers of the classes, -1 for a row without one."""
        return f"class:{self.column}"

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as text."""
        return tuple(map(str, self.levels.levels))


Target = NumericTarget | ClassTarget


def read_targets(encoder: Mapping[str, Any]) -> tuple[Target, ...]:
    """The targets in the JSON values of an :class:`.encoder.Encoder`."""
    return TypeAdapter(tuple[Target, ...]).validate_python(encoder["targets"])


def fit_target(table: nw.DataFrame[Any], name: str, columns: Columns, options: EncodingOptions) -> Target:
    """Fit the target ``name`` on the labelled training rows ``table``.

    Raises:
        DataError: naming the column, if a number is infinite or has no logarithm, a value is missing, the type fits
            neither kind or there are fewer than two classes.
    """
    if missing := int((~_known(table, name)).sum()):
        raise DataError(f"target {name!r} has {missing} missing values on the training rows")
    positive = columns.positive_of(name)
    if holds_classes(table, columns, name):
        return _fit_classes(table, name, positive)
    if positive is not None:
        raise DataError(f"columns.positive is for a target of two classes; {name!r} holds numbers (columns.classes)")
    transform = options.transform_of(name)
    values = _numbers(table, name, transform)
    if transform == "none":
        _warn_of_few_numbers(values, name)
    learned = np.log(values) if transform == "log" else values
    weights = training_weights(table, columns.weight) if columns.weight else None
    if weights is None:
        mean, std = float(learned.mean()), float(learned.std())
    else:  # rows without a weight must not widen the scale of the outputs
        learned, weights = learned[weights > 0], weights[weights > 0]
        mean = float(np.average(learned, weights=weights))
        std = float(np.sqrt(np.average((learned - mean) ** 2, weights=weights)))
    return NumericTarget(
        column=name, transform=transform, mean=mean, std=nonzero_std(std, mean), maximum=float(learned.max())
    )


def averaged_targets(table: nw.DataFrame[Any], targets: Sequence[Target]) -> dict[str, Array]:
    """What target means average on labelled rows, float64 [N] by the label of :class:`.target_means.TargetMeans`.

    The transformed number, or for each class but the first 1 in the rows of the class and 0 in others. The label is
    ``""`` or the class; of several targets the target, or ``target=class``.
    """
    found: dict[str, Array] = {}
    for target in targets:
        several = len(targets) > 1
        if isinstance(target, NumericTarget):
            values = _numbers(table, target.column, target.transform)
            found[target.column if several else ""] = transform_target(values, target)
            continue
        codes = class_codes(table, target)
        for number, label in enumerate(target.names[1:], start=1):
            found[f"{target.column}={label}" if several else label] = (codes == number).astype(np.float64)
    return found


def check_transforms(options: EncodingOptions, targets: Sequence[Target]) -> None:
    """Raise a DataError if ``encoding.target_transform`` names no numeric target."""
    numeric = [target.column for target in targets if isinstance(target, NumericTarget)]
    if isinstance(options.target_transform, dict):
        if strange := sorted(set(options.target_transform) - set(numeric)):
            raise DataError(f"encoding.target_transform names {strange}; the numeric targets are {numeric}")
    elif options.target_transform == "log" and not numeric:
        names = [target.column for target in targets]
        raise DataError(f"encoding.target_transform 'log' needs a numeric target; {names} hold classes")


def stored_target(table: nw.DataFrame[Any], target: Target) -> nw.Expr | nw.Series[Any]:
    """The column of the encoded frame for a target, under the name ``target.stored``; missing values stay missing.

    Raises:
        DataError: naming the column, if its values are of another kind than when fitted, infinite, without a needed
            logarithm, or of a class that no training row has.
    """
    if isinstance(target, NumericTarget):
        _numbers(table, target.column, target.transform)
        return as_float(table, target.column, hint=_hint(target.column))
    codes = class_codes(table, target)
    return nw.new_series(target.stored, codes, nw.Int32, backend=table.implementation)


def class_codes(table: nw.DataFrame[Any], target: ClassTarget) -> NDArray[np.int32]:
    """Number of each row's class, int32 [N], -1 where it is missing; raise a DataError for a class never seen."""
    name = target.column
    if not all_missing(table, name) and (found := kind_of(table, name, key="columns.target")) != target.levels.kind:
        raise DataError(f"target {name!r} holds {found} values; it was fitted on {target.levels.kind} values")
    codes = table.select(category_codes(table, name, target.levels).alias(name)).get_column(name).to_numpy() - 1
    unseen = (codes == UNLABELLED) & _known(table, name)
    if unseen.any():
        value = table.get_column(name).to_list()[int(unseen.argmax())]
        raise DataError(
            f"target {name!r} has the class {value!r}, which no training row has: {int(unseen.sum())} rows; these are "
            f"known: {', '.join(target.names)}. Take its rows out of the table, or hold out others by split"
        )
    return np.asarray(codes, dtype=np.int32)


def prefix_of(target: Target, targets: Sequence[Target]) -> str:
    """Prefix of the columns and metrics of a target: empty if it is the only one."""
    return f"{target.column}." if len(targets) > 1 else ""


def actual_values(encoded: nw.DataFrame[Any], target: Target) -> NDArray[Any]:
    """The target of labelled rows of an encoded frame: numbers float64 [N] in their own units, or classes int64 [N]."""
    values = encoded.get_column(target.stored).to_numpy()
    return values.astype(np.int64 if isinstance(target, ClassTarget) else np.float64)


def point_prediction(target: Target, prediction: Array) -> Array:
    """One number for each row, [N]: the median of quantiles [N, Q]; any other prediction as it is."""
    if isinstance(target, NumericTarget) and prediction.ndim == 2:
        return np.asarray(prediction[:, target.quantiles.index(0.5)])
    return prediction


def transform_target(values: NDArray[np.floating], target: NumericTarget) -> Array:
    """Numbers in the units that the network learns: logarithms, or as they are."""
    exact: Array = np.asarray(values, dtype=np.float64)
    return np.asarray(np.log(exact)) if target.transform == "log" else exact


def invert_target(values: NDArray[np.floating], target: NumericTarget) -> Array:
    """Transformed numbers back in their own units."""
    exact: Array = np.asarray(values, dtype=np.float64)
    return np.asarray(np.exp(exact)) if target.transform == "log" else exact


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities float64 [N, C] of logits [N, C]."""
    exact = np.asarray(logits, dtype=np.float64)
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def nonzero_std(std: float, mean: float) -> float:
    """``std``, or 1 for a constant column, whose computed deviation may be 1e-17 instead of 0.

    DIFF(fastai): it divides by 1e-7 there, and a value that training never saw becomes 1e7 standard deviations.
    """
    return std if std > ROUNDING * abs(mean) else 1.0


def _warn_of_few_numbers(values: Array, name: str) -> None:
    """Warn if a target has only a few different whole numbers: in many data sets these number the classes."""
    distinct = np.unique(values)
    if len(distinct) <= FEW_NUMBERS and len(values) >= 3 * len(distinct) and not np.any(values % 1):
        shown = ", ".join(f"{value:.0f}" for value in distinct)
        logger.warning(
            "target %r holds the whole numbers %s and is learned as a quantity: if they are classes, set "
            "columns.classes: [%s]",
            name,
            shown,
            name,
        )


def _fit_classes(table: nw.DataFrame[Any], name: str, positive: str | None) -> ClassTarget:
    levels = fit_categories(table, name, key="columns.classes")
    if len(levels.levels) < 2:
        raise DataError(
            f"target {name!r} has the one class {levels.levels[0]!r} on the training rows: columns.target needs a "
            "column of two classes or more"
        )
    names = [str(level) for level in levels.levels]
    if positive is not None and (positive not in names or len(names) != 2):
        raise DataError(
            f"columns.positive names {positive!r}: it needs a target of two classes and one of them; {name!r} has "
            f"{', '.join(names)}"
        )
    codes = table.select(category_codes(table, name, levels).alias(name)).get_column(name).to_numpy()
    counts = np.bincount(codes, minlength=levels.size)[1:]
    return ClassTarget(column=name, levels=levels, counts=tuple(counts.tolist()), positive=positive)


def _known(table: nw.DataFrame[Any], name: str) -> NDArray[np.bool_]:
    """Whether each row has a value, bool [N]."""
    return table.select(present(table, name).alias(name)).get_column(name).to_numpy().astype(bool)


def _numbers(table: nw.DataFrame[Any], name: str, transform: str) -> Array:
    """The present values of a numeric target, float64; raise a DataError if one is infinite or has no logarithm."""
    numbers = table.select(as_float(table, name, hint=_hint(name)))
    require_finite(numbers.get_column(name), name)
    present: Array = numbers.get_column(name).drop_nulls().to_numpy()
    if transform == "log" and len(present) and (smallest := present.min()) <= 0:
        raise DataError(
            f"target {name!r} has the value {smallest}, which has no logarithm: drop these rows or set "
            "encoding.target_transform to 'none'"
        )
    return present


def _hint(name: str) -> str:
    return f"columns.target needs a column of numbers or of classes (strings, booleans); {name!r} holds neither"
