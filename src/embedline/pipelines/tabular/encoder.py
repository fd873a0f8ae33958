"""Fit and apply the encoding of a table: the ``proc_df`` of the lessons, with its state kept as an artifact."""

from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from embedline.errors import DataError
from embedline.frames.checks import require_finite
from embedline.pipelines.tabular.categories import (
    CategoryMap,
    all_missing,
    code_arrays,
    codes_of,
    fit_categories,
    kind_of,
)
from embedline.pipelines.tabular.columns import SPLIT_COLUMN, Columns, require_columns, require_roles
from embedline.pipelines.tabular.options import EncodingOptions
from embedline.pipelines.tabular.scalers import Scale, as_float, fit_scale
from embedline.pipelines.tabular.target_means import TargetMeans, fit_target_means
from embedline.pipelines.tabular.targets import NumericTarget, Target, check_transforms, fit_target, stored_target

FLAG = "_na"  # suffix of the category that marks a filled-in continuous value
MEND = "take it out of columns.continuous, or list it in columns.categorical"


class Encoder(BaseModel):
    """Fitted state of the encoding; JSON through ``model_dump(mode="json")`` and ``model_validate``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categorical: dict[str, CategoryMap]
    continuous: dict[str, Scale]
    flags: tuple[str, ...]
    keys: tuple[str, ...]
    targets: tuple[Target, ...]
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
    """Learn levels, medians, scales, and the targets' scales or classes from ``table``: training rows only.

    Args:
        table: labelled training rows; every column of ``columns``.

    Raises:
        DataError: naming the column that is missing, has a wrong type, holds an infinite value or only nulls, or a
            target that its transform cannot take or that has fewer than two classes.
    """
    grouped = tuple(dict.fromkeys(name for group in options.target_means for name in group))
    _check_columns(table, columns, grouped)
    _check_names(options, columns)
    categorical = {name: fit_categories(table, name) for name in columns.categorical}
    numbers = table.select(*(as_float(table, name, mend=MEND) for name in columns.continuous))
    for name in columns.continuous:
        require_finite(numbers.get_column(name), name)
    scales = {name: fit_scale(numbers.get_column(name), options) for name in columns.continuous}
    flags = tuple(
        name for name in columns.continuous if numbers.get_column(name).null_count() > 0 and name not in options.fill
    )
    clashes = [name + FLAG for name in flags if name + FLAG in categorical]
    if clashes:
        raise DataError(f"columns.categorical lists {clashes}, names that mark filled-in values: rename these columns")
    targets, learned = _fit_targets(table, columns, options)
    groups = {
        name: categorical.get(name) or fit_categories(table, name, key="encoding.target_means") for name in grouped
    }
    codes, sizes = code_arrays(table, groups), {name: levels.size for name, levels in groups.items()}
    return Encoder(
        categorical=categorical,
        continuous=scales,
        flags=flags,
        keys=columns.keys,
        targets=targets,
        groups=groups,
        target_means=tuple(
            fit_target_means(codes, sizes, group, values, options.smoothing, of)
            for group in options.target_means
            for of, values in learned.items()
        ),
    )


def encode(table: nw.DataFrame[Any], encoder: Encoder) -> nw.DataFrame[Any]:
    """Apply a fitted encoding to any frame with the same inputs.

    Returns:
        The key columns and ``split`` where ``table`` has them; of each target that it has, the number (Float64,
        untransformed) or, as ``class:<name>``, the number of its class (Int32, -1 where it is missing); an Int32 column
        ``code:<name>`` for each of ``encoder.code_columns``, a standardised Float32 column ``value:<name>`` for each of
        ``encoder.value_columns``. Rows keep their order.

    DIFF(fastai): scales come from training rows alone, and the missing-value flags are categories (v2), not continuous
    inputs (v0.7).

    Raises:
        DataError: naming the column that is missing, has a wrong type, holds an infinite value or, as a target, a class
            that no training row has.
    """
    _check_frame(table, encoder)
    targets = [target for target in encoder.targets if target.column in table.columns]
    stored = {target.stored: stored_target(table, target) for target in targets}
    keys = [nw.col(name) for name in (*encoder.keys, SPLIT_COLUMN) if name in table.columns and name not in stored]
    # A key may be an input too (Store is an id and a variable): its codes go to a column of their own name below.
    codes = [codes_of(table, name, levels).alias(code_name(name)) for name, levels in encoder.categorical.items()]
    numbers = {name: as_float(table, name, mend=MEND) for name in encoder.continuous}
    marks = [(numbers[name].is_null().cast(nw.Int32) + 1).alias(code_name(name + FLAG)) for name in encoder.flags]
    scaled = [scale.standardise(table, numbers[name], value_name(name)) for name, scale in encoder.continuous.items()]
    encoded = table.select(*keys, *stored.values(), *codes, *marks, *scaled)
    grouped = code_arrays(table, encoder.groups)
    return encoded.with_columns(
        nw.new_series(value_name(means.name), means.standardised(grouped), nw.Float32, backend=table.implementation)
        for means in encoder.target_means
    )


def code_name(variable: str) -> str:
    """Column of the encoded frame that holds the codes of ``variable``."""
    return f"code:{variable}"


def value_name(variable: str) -> str:
    """Column of the encoded frame that holds the standardised values of ``variable``."""
    return f"value:{variable}"


def _check_columns(table: nw.DataFrame[Any], columns: Columns, grouped: tuple[str, ...]) -> None:
    require_roles(table, columns, {"encoding.target_means": grouped})
    if both := [name for name in columns.targets if name in grouped]:
        raise DataError(f"encoding.target_means groups by the target {both[0]!r}")


def _check_names(options: EncodingOptions, columns: Columns) -> None:
    for key in ("fill", "limits", "scalings"):
        unknown = sorted(set(getattr(options, key)) - set(columns.continuous))
        if unknown:
            raise DataError(f"encoding.{key} names {unknown}, which columns.continuous does not list")


def _check_frame(table: nw.DataFrame[Any], encoder: Encoder) -> None:
    """Raise a DataError if ``table`` lacks an input, or one is of another kind or infinite."""
    for key, names in (
        ("columns.categorical", encoder.categorical),
        ("columns.continuous", encoder.continuous),
        ("encoding.target_means", encoder.groups),
    ):
        require_columns(table, list(names), what="the frame to encode", key=key)
    for name, levels in {**encoder.groups, **encoder.categorical}.items():
        if not all_missing(table, name) and (found := kind_of(table, name)) != levels.kind:
            raise DataError(f"column {name!r} holds {found} values; it was fitted on {levels.kind} values")
    numbers = table.select(*(as_float(table, name, mend=MEND) for name in encoder.continuous))
    for name in encoder.continuous:
        require_finite(numbers.get_column(name), name)


def _fit_targets(
    table: nw.DataFrame[Any], columns: Columns, options: EncodingOptions
) -> tuple[tuple[Target, ...], dict[str, NDArray[np.float64]]]:
    """The targets, and by label what target means are of: see :func:`.targets.fit_target`."""
    fitted = [fit_target(table, name, columns, options) for name in columns.targets]
    targets = tuple(target for target, _ in fitted)
    check_transforms(options, targets)
    if len(fitted) == 1:
        return targets, fitted[0][1]
    return targets, {
        target.column if isinstance(target, NumericTarget) else f"{target.column}={label}": values
        for target, learned in fitted
        for label, values in learned.items()
    }
