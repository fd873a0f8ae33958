"""What is predicted: numbers with their scale, or classes with their levels, fitted on the training rows alone.

A *prediction* of a target is float64 [N] in the units of a number, or the probabilities float64 [N, C] of C classes.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from embedline.errors import DataError
from embedline.frames.checks import require_finite
from embedline.pipelines.tabular.categories import CategoryMap, all_missing, codes_of, fit_categories, kind_of
from embedline.pipelines.tabular.columns import Columns, holds_classes, present
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.scalers import as_float, spread

FEW_NUMBERS = 10  # different values of a target that may be numbers of classes
UNLABELLED = -1  # class of a row without one
Array = NDArray[np.float64]

logger = logging.getLogger(__name__)


class NumericTarget(BaseModel):
    """A number: its transform and, of the transformed training values, mean, deviation and maximum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    transform: Literal["log", "none"]
    mean: float
    std: float
    maximum: float

    @property
    def width(self) -> int:
        """Outputs of the network."""
        return 1

    @property
    def stored(self) -> str:
        """Column of the encoded frame: the target's own, untransformed."""
        return self.column


class ClassTarget(BaseModel):
    """Classes in sorted order, how many training rows each has, and of two the positive one, the last unless given."""

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


def fit_target(
    table: nw.DataFrame[Any], name: str, columns: Columns, options: EncodingOptions
) -> tuple[Target, dict[str, Array]]:
    """The target ``name`` of the labelled training rows ``table``, and what there is to learn about it.

    Returns:
        The target, and for :mod:`.target_means` arrays [N] by label: the transformed number under
        ``""``, or whether a row is of a class (0, 1) under the class's name, for each class but the first.

    Raises:
        DataError: naming the column, if a number is infinite or has no logarithm, a value is missing, the type fits
            neither kind or there are fewer than two classes.
    """
    if missing := int((~_known(table, name)).sum()):
        raise DataError(f"target {name!r} has {missing} missing values on the training rows")
    positive = columns.positive_of(name)
    if holds_classes(table, columns, name):
        target = _fit_classes(table, name, positive)
        codes = class_codes(table, target)
        return target, {label: (codes == k).astype(np.float64) for k, label in enumerate(target.names) if k > 0}
    if positive is not None:
        raise DataError(f"columns.positive is for a target of two classes; {name!r} holds numbers (columns.classes)")
    transform = options.transform_of(name)
    values = _numbers(table, name, transform)
    if transform == "none":
        _warn_of_few_numbers(values, name)
    learned = np.log(values) if transform == "log" else values
    mean = float(learned.mean())
    scale = NumericTarget(
        column=name,
        transform=transform,
        mean=mean,
        std=spread(float(learned.std()), mean),
        maximum=float(learned.max()),
    )
    return scale, {"": learned}


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
    """The target's column of the encoded frame, under the name ``target.stored``; missing values stay missing.

    Raises:
        DataError: naming the column, if its values are of another kind than they were when fitted, infinite, without
            the logarithm that is needed, or of a class that no training row has.
    """
    if isinstance(target, NumericTarget):
        _numbers(table, target.column, target.transform)
        return as_float(table, target.column, mend=_mend(target.column))
    codes = class_codes(table, target)
    return nw.new_series(target.stored, codes, nw.Int32, backend=table.implementation)


def class_codes(table: nw.DataFrame[Any], target: ClassTarget) -> NDArray[np.int32]:
    """Number of each row's class, int32 [N], -1 where it is missing; raise a DataError for a class never seen."""
    name = target.column
    if not all_missing(table, name) and (found := kind_of(table, name, key="columns.target")) != target.levels.kind:
        raise DataError(f"target {name!r} holds {found} values; it was fitted on {target.levels.kind} values")
    codes = table.select(codes_of(table, name, target.levels).alias(name)).get_column(name).to_numpy() - 1
    unseen = (codes == UNLABELLED) & _known(table, name)
    if unseen.any():
        value = table.get_column(name).to_list()[int(unseen.argmax())]
        raise DataError(
            f"target {name!r} has the class {value!r}, which no training row has: {int(unseen.sum())} rows; these are "
            f"known: {', '.join(target.names)}. Take its rows out of the table, or hold out others by split"
        )
    return np.asarray(codes, dtype=np.int32)


def transform_target(values: NDArray[np.floating], scale: NumericTarget) -> Array:
    """To the units in which the number is learned."""
    exact: Array = np.asarray(values, dtype=np.float64)
    return np.asarray(np.log(exact)) if scale.transform == "log" else exact


def invert_target(values: NDArray[np.floating], scale: NumericTarget) -> Array:
    """Back to the number's own units."""
    exact: Array = np.asarray(values, dtype=np.float64)
    return np.asarray(np.exp(exact)) if scale.transform == "log" else exact


def _warn_of_few_numbers(values: Array, name: str) -> None:
    """Warn of a target of a few whole numbers: they may be the numbers of classes, as many data sets have them."""
    different = np.unique(values)
    if len(different) <= FEW_NUMBERS and len(values) >= 3 * len(different) and not np.any(values % 1):
        shown = ", ".join(f"{value:.0f}" for value in different)
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
    codes = table.select(codes_of(table, name, levels).alias(name)).get_column(name).to_numpy()
    counts = np.bincount(codes, minlength=levels.size)[1:]
    return ClassTarget(column=name, levels=levels, counts=tuple(counts.tolist()), positive=positive)


def _known(table: nw.DataFrame[Any], name: str) -> NDArray[np.bool_]:
    """Whether each row has a value, bool [N]."""
    return table.select(present(table, name).alias(name)).get_column(name).to_numpy().astype(bool)


def _numbers(table: nw.DataFrame[Any], name: str, transform: str) -> Array:
    """The present values of a numeric target, once they are found to be finite and to have the logarithm needed."""
    numbers = table.select(as_float(table, name, mend=_mend(name)))
    require_finite(numbers.get_column(name), name)
    present: Array = numbers.get_column(name).drop_nulls().to_numpy()
    if transform == "log" and len(present) and (smallest := present.min()) <= 0:
        raise DataError(
            f"target {name!r} has the value {smallest}, which has no logarithm: drop these rows or set "
            "encoding.target_transform to 'none'"
        )
    return present


def _mend(name: str) -> str:
    return f"columns.target needs a column of numbers or of classes (strings, booleans); {name!r} holds neither"
