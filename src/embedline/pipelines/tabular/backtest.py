"""Back-tests: windows of days, each forecast by a model that is fitted on the rows before it, and their metrics.

Rolling origins (Tashman 2000): nothing is fitted on a row of the window or after it, target means and imputation
included. One held-out window is one draw: the spread over several says how much of a difference is chance.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import PREDICT, SPLIT_COLUMN, TEST, Columns, Split, local_times
from embedline.pipelines.tabular.cross_validation import held_out_predictions
from embedline.pipelines.tabular.intervals import horizon_weeks, interval_columns, residual_bounds
from embedline.pipelines.tabular.model import MODEL
from embedline.pipelines.tabular.options import (
    BacktestOptions,
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    TableTraining,
)
from embedline.pipelines.tabular.predictions import (
    NETWORKS,
    TREES,
    compare,
    loss_name,
    prediction_loss,
    read_actual,
    read_prediction,
    to_series,
)
from embedline.pipelines.tabular.splits import assign_splits, backtest_windows
from embedline.pipelines.tabular.targets import NumericTarget, Target, prefix_of, transform_target
from embedline.pipelines.tabular.trees import blended

SHARES = tuple(share / 10.0 for share in range(11))

logger = logging.getLogger(__name__)


def plan_windows(rows: nw.DataFrame[Any], columns: Columns, split: Split, options: BacktestOptions) -> list[Split]:
    """The windows of a back-test, the newest first, inside the training part of a split.

    Raises:
        DataError: if the rows have no times, or none before the oldest window.
    """
    time = split.column if split.kind == "window" else columns.time
    if time is None:
        raise DataError("a back-test needs columns.time, the column with the date of each row")
    labelled = assign_splits(rows, columns, split).filter(nw.col(SPLIT_COLUMN) != PREDICT)
    days = local_times(labelled, time).cast(nw.Date)
    step = options.step or options.length
    windows = backtest_windows(split, days.max(), options.windows, options.length, step, time=time)[::-1]
    for window in windows:
        if not ((days >= window.start) & (days <= window.end)).any() or not (days < window.start).any():
            raise DataError(
                f"backtest asks for a window {window.start} to {window.end}, and {time!r} has no labelled row in it or "
                f"before it: the first one is of {days.min()}. Ask for fewer or shorter windows"
            )
    return windows


def forecast_window(
    table: nw.DataFrame[Any],
    window: Split,
    columns: Columns,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
    baselines: BaselineOptions,
    kept: Sequence[str],
) -> tuple[nw.DataFrame[Any], dict[str, Any], tuple[Target, ...]]:
    """Fit encoding, networks and baselines on the rows before a window, and predict its rows.

    Returns:
        The rows of the window with the columns ``kept`` and those of :mod:`.predictions`, the costs of the baselines,
        and the targets.
    """
    rows = assign_splits(table, columns, window).filter(nw.col(SPLIT_COLUMN) != PREDICT)
    name = f"window_{window.start}"
    values, costs, targets = held_out_predictions(rows, columns, encoding, network, training, baselines, name=name)
    tested = rows.filter(nw.col(SPLIT_COLUMN) == TEST)
    if taken := sorted(set(kept) & set(values)):
        raise DataError(f"the table has a column {taken[0]!r}, the name of one of the predictions: rename it")
    return tested.select(*kept, *to_series(values, rows.implementation)), costs, targets


def summarise(
    frames: Mapping[str, nw.DataFrame[Any]],
    costs: Mapping[str, Any],
    targets: Sequence[Target],
    columns: Columns,
    groups: Sequence[str],
    levels: Sequence[float] = (),
) -> dict[str, Any]:
    """Metrics of a back-test.

    Args:
        frames: by the name of the window, the newest first, its predictions as :func:`forecast_window` gives them.
        costs: of the baselines, of any window.
        groups: columns by which the coverage of the intervals is broken down.
        levels: of intervals, which each window has by the residuals of all older ones.

    Returns:
        For each target (of several under their columns): ``windows``, by name the metrics of :func:`.compare`;
        ``losses``, by model the ``mean`` of the windows' losses, their standard deviation ``spread``, the losses
        ``by_window``, and their means by week of the horizon ``by_week``; ``coverage``, the windows' mean by level of
        the intervals; and of a blend ``shares``, the mean loss by the share of the trees, and ``best_share``.
    """
    found = {}
    for target in targets:
        prefix = prefix_of(target, targets)
        windows: dict[str, dict[str, Any]] = {}
        losses: dict[str, dict[int, list[float]]] = {}  # by model and week, with the whole window as week 0
        older = list(frames.values())
        for window, predicted in frames.items():
            older = older[1:]
            frame = add_intervals(predicted, older, target, prefix, levels)
            weeks = horizon_weeks(frame, str(columns.time))
            of_rows = {name: frame.get_column(name).to_list() for name in groups} | {"week": weeks}
            logger.info("Window %s, %d rows", window, len(frame))
            windows[window] = compare(frame, target, prefix, costs, groups=of_rows)
            for name, week, value in _losses(frame, target, prefix, [MODEL, *costs], weeks):
                losses.setdefault(name, {}).setdefault(week, []).append(value)
        found[target.column] = {
            "loss": loss_name(target),
            "windows": windows,
            "losses": {name: _summary(of_weeks, list(windows)) for name, of_weeks in losses.items()},
            **_coverage(windows),
            **(_shares(list(frames.values()), target, prefix) if TREES in costs else {}),
        }
        _log_losses(found[target.column])
    return found if len(targets) > 1 else found[targets[0].column]


def add_intervals(
    frame: nw.DataFrame[Any],
    older: Sequence[nw.DataFrame[Any]],
    target: Target,
    prefix: str,
    levels: Sequence[float],
) -> nw.DataFrame[Any]:
    """The predictions of a window with intervals by the residuals of older ones; as they are where there are none."""
    if not older or not isinstance(target, NumericTarget) or target.quantiles:
        return frame
    both = [(read_actual(each, target, prefix), read_prediction(each, target, prefix)) for each in older]
    residuals = [transform_target(actual, target) - transform_target(found, target) for actual, found in both]
    bounds = {target.column: residual_bounds(np.concatenate(residuals), levels)}
    columns = interval_columns(target, read_prediction(frame, target, prefix), bounds, prefix)
    return frame.with_columns(*to_series(columns, frame.implementation))


def _summary(of_weeks: Mapping[int, Sequence[float]], windows: Sequence[str]) -> dict[str, Any]:
    """Mean and spread of a model's losses, and the losses themselves by window and by week."""
    values = of_weeks[0]
    return {
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "by_window": dict(zip(windows, values, strict=True)),
        "by_week": {str(week): float(np.mean(each)) for week, each in sorted(of_weeks.items()) if week},
    }


def _losses(
    frame: nw.DataFrame[Any], target: Target, prefix: str, names: Sequence[str], weeks: Sequence[int]
) -> list[tuple[str, int, float]]:
    """Loss of each model over all rows of a window, as week 0, and in each week."""
    actual, week_of_row, found = read_actual(frame, target, prefix), np.array(weeks), []
    for name in names:
        prediction = read_prediction(frame, target, prefix, "" if name == MODEL else name)
        found.append((name, 0, prediction_loss(target, actual, prediction)))
        for week in np.unique(week_of_row):
            own = week_of_row == week
            found.append((name, int(week), prediction_loss(target, actual[own], prediction[own])))
    return found


def _coverage(windows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean share of the values that the intervals hold, by level, over the windows that have some."""
    found = [each["intervals"] for each in windows.values() if "intervals" in each]
    shared = set.intersection(*map(set, found)) if found else set()
    means = {level: float(np.mean([each[level]["coverage"] for each in found])) for level in sorted(shared, key=float)}
    return {"coverage": means} if means else {}


def _shares(frames: Sequence[nw.DataFrame[Any]], target: Target, prefix: str) -> dict[str, Any]:
    """Mean loss of the windows by the share of the trees in the blend."""
    losses = {}
    for share in SHARES:
        of_windows = []
        for frame in frames:
            members = [read_prediction(frame, target, prefix, name) for name in (NETWORKS, TREES)]
            mixed = blended(target, members[0], members[1], share)
            of_windows.append(prediction_loss(target, read_actual(frame, target, prefix), mixed))
        losses[f"{share:g}"] = float(np.mean(of_windows))
    best = min(losses, key=lambda share: losses[share])
    logger.info("The share of LightGBM with the lowest mean loss over the windows: %s (%.4f)", best, losses[best])
    return {"shares": losses, "best_share": float(best)}


def _log_losses(metrics: Mapping[str, Any]) -> None:
    """Log a line for each model, best first: its loss in each window, their mean and their spread."""
    for name, summary in sorted(metrics["losses"].items(), key=lambda item: item[1]["mean"]):
        logger.info(
            "%s of %s: mean %.4f, spread %.4f, by window %s",
            metrics["loss"],
            name,
            summary["mean"],
            summary["spread"],
            " ".join(f"{value:.4f}" for value in summary["by_window"].values()),
        )
