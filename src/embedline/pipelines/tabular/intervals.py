"""Prediction intervals of numbers by split-conformal prediction (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173).

The residuals of rows that a network did not learn from, in units of the transformed target, have quantiles; added to a
prediction they are an interval. Of a logarithmic target it is wider for larger predictions, and need not be symmetric.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.tabular.columns import local_times
from embedline.pipelines.tabular.targets import (
    NumericTarget,
    Target,
    invert_target,
    point_prediction,
    transform_target,
)

LOWER, UPPER = "lower_", "upper_"
MOST_GROUPS = 60  # values of a column by which the coverage is broken down

Bounds = dict[str, dict[str, list[float]]]
"""By target and level, such as ``80``: what is added to a transformed prediction at the lower and the upper end."""

logger = logging.getLogger(__name__)


def residual_bounds(residuals: NDArray[np.float64], levels: Sequence[float]) -> dict[str, list[float]]:
    """The two quantiles of the residuals [N] for each level, corrected for the N rows that they were found on.

    The interval between the ``k``-th lowest and the ``k``-th highest of N residuals holds another one with the
    probability ``1 - 2k / (N + 1)``. A level that too few rows are there for is left out with a warning.
    """
    found, ordered = {}, np.sort(residuals)
    for level in levels:
        place = math.floor((len(ordered) + 1) * (1.0 - level) / 2.0 + 1e-9)
        if place < 1:
            logger.warning("%d rows are too few for an interval that holds %g %%", len(ordered), 100.0 * level)
            continue
        found[level_name(level)] = [float(ordered[place - 1]), float(ordered[-place])]
    return found


def level_name(level: float) -> str:
    """Name of a level in columns and metrics: ``80`` of 0.8."""
    return f"{100.0 * level:g}"


def interval_levels(names: Sequence[str], prefix: str = "") -> list[str]:
    """Levels whose intervals are among the columns ``names``, in order."""
    return [name.removeprefix(prefix + LOWER) for name in names if name.startswith(prefix + LOWER)]


def interval_columns(
    target: Target, prediction: NDArray[np.float64], bounds: Bounds, prefix: str
) -> dict[str, NDArray[np.float64]]:
    """Columns ``lower_80`` and ``upper_80`` for each level, [N] in the units of the target, of a prediction [N]."""
    found: dict[str, NDArray[np.float64]] = {}
    if isinstance(target, NumericTarget):
        middle = transform_target(point_prediction(target, prediction), target)
        for level, (low, high) in bounds.get(target.column, {}).items():
            found[f"{prefix}{LOWER}{level}"] = invert_target(middle + low, target)
            found[f"{prefix}{UPPER}{level}"] = invert_target(middle + high, target)
    return found


def fold_intervals(
    target: Target, found: Mapping[str, NDArray[Any]], bounds: Bounds, prefix: str
) -> dict[str, NDArray[np.float64]]:
    """Columns as of :func:`interval_columns` for rows that folds predict: each by the residuals of the other folds.

    Args:
        found: the columns of the fold predictions, ``fold`` among them.
        bounds: of the model that learns from all rows; its levels are taken.
    """
    levels = tuple(float(level) / 100.0 for level in bounds.get(target.column, {}))
    if not isinstance(target, NumericTarget) or not levels:
        return {}
    actual, prediction, fold = found[f"{prefix}actual"], found[f"{prefix}predicted"], found["fold"]
    residuals = transform_target(actual, target) - transform_target(prediction, target)
    columns: dict[str, NDArray[np.float64]] = {}
    for number in np.unique(fold):
        own = fold == number
        others = {target.column: residual_bounds(residuals[~own], levels)}
        for name, values in interval_columns(target, prediction[own], others, prefix).items():
            columns.setdefault(name, np.full(len(fold), np.nan))[own] = values
    return {name: values for name, values in columns.items() if not np.isnan(values).any()}


def interval_metrics(
    frame: nw.DataFrame[Any], prefix: str, actual: NDArray[np.float64], groups: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Share of the rows that each interval of ``frame`` holds, and its mean width in the units of the target.

    Args:
        actual: [N].
        groups: by a name the group [N] of each row; the coverage in each group is under ``by_<name>``.
    """
    found: dict[str, Any] = {}
    for level in interval_levels(frame.columns, prefix):
        low, high = (frame.get_column(f"{prefix}{end}{level}").to_numpy() for end in (LOWER, UPPER))
        within = (low <= actual) & (actual <= high)
        found[level] = {"coverage": float(within.mean()), "width": float((high - low).mean())}
        for name, values in groups.items():
            keys, places = np.unique(np.array([str(value) for value in values]), return_inverse=True)
            if len(keys) <= MOST_GROUPS:
                shares = np.bincount(places, within) / np.bincount(places)
                found[level][f"by_{name}"] = dict(zip(keys.tolist(), shares.tolist(), strict=True))
    return found


def horizon_weeks(rows: nw.DataFrame[Any], time: str) -> list[int]:
    """The week of each row, from 1, since the first day of all rows: how far ahead a forecast is."""
    days = local_times(rows, time).to_frame().select(nw.col(time).cast(nw.Date)).get_column(time).to_list()
    first = min(days, default=None)
    return [(day - first).days // 7 + 1 for day in days]
