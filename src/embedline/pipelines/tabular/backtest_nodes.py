"""Nodes of the back-tests of a table: plan the windows, forecast each, and put their metrics together.

A window is a node of its own, so that a changed number of windows, or a run that was cut off, repeats none of them.
"""

import logging
from typing import Any

import narwhals as nw
import polars as pl

from embedline.errors import about_frame
from embedline.pipelines.tabular.columns import Columns, Split, read_table
from embedline.pipelines.tabular.options import (
    MOST_WINDOWS,
    BacktestOptions,
    BaselineOptions,
    EncodingOptions,
    NetworkOptions,
    ReportOptions,
    TableTraining,
)
from embedline.pipelines.tabular.roles import infer_roles
from embedline.pipelines.tabular.splits import assign_splits
from embedline.pipelines.tabular.targets import read_targets

logger = logging.getLogger(__name__)

Frame = Any  # polars.DataFrame or pandas.DataFrame
Plot = Any  # plotly.graph_objects.Figure
Window = dict[str, Any]  # a split and the seeds of its networks as JSON; empty for a window that is not asked for


def plan_backtest(table: Frame, columns: Columns, split: Split, backtest: BacktestOptions) -> list[Window]:
    """The windows, the newest first; as many as the pipeline has nodes for, those not asked for empty."""
    from embedline.pipelines.tabular.backtest import plan_windows

    with about_frame("table"):
        windows = plan_windows(read_table(table, columns, split), columns, split, backtest)
    for window in windows:
        logger.info("Window of the back-test: %s to %s", window.start, window.end)
    seeds = {"seeds": list(backtest.seeds)} if backtest.seeds else {}
    planned: list[Window] = [{"split": window.model_dump(mode="json"), **seeds} for window in windows]
    return planned + [{}] * (MOST_WINDOWS - len(planned))


def forecast_window(
    table: Frame,
    window: Window,
    columns: Columns,
    encoding: EncodingOptions,
    network: NetworkOptions,
    training: TableTraining,
    baselines: BaselineOptions,
    report: ReportOptions,
) -> tuple[Frame, dict[str, Any]]:
    """Predictions of the rows of a window from the rows before it; and costs of the baselines, and the targets."""
    from embedline.pipelines.tabular import backtest

    if not window:
        return pl.DataFrame(schema={"row": pl.Int64}), {}
    split = Split.model_validate(window["split"])
    if "seeds" in window:
        training = training.model_copy(update={"seeds": tuple(window["seeds"]), "weights": None})
    groups = tuple(dict.fromkeys(name for group in encoding.target_means for name in group))
    others = (
        ("encoding.target_means", groups),
        ("baselines.group_by", baselines.group_by),
        ("report.error_by", report.error_by),
    )
    with about_frame("table"):
        rows = read_table(table, columns, split, others=others)
        if columns.inputs == "auto":
            columns = infer_roles(assign_splits(rows, columns, split), columns, split).columns
            rows = read_table(table, columns, split, others=others)
        kept = tuple(dict.fromkeys([*columns.keys, str(split.column), *report.error_by]))
        settings = (encoding, network, training, baselines)
        predictions, costs, targets = backtest.forecast_window(rows, split, columns, *settings, kept)
    return predictions.to_native(), {
        "baselines": costs,
        "targets": [target.model_dump(mode="json") for target in targets],
        "levels": list(training.intervals.levels) if training.intervals else [],
    }


def summarise_backtest(columns: Columns, split: Split, report: ReportOptions, *results: Any) -> dict[str, Any]:
    """Metrics by window, and their means (:func:`.backtest.summarise`).

    Args:
        results: the predictions of all windows, then what :func:`forecast_window` says of each.
    """
    from embedline.pipelines.tabular.backtest import summarise

    frames, costs = results[:MOST_WINDOWS], results[MOST_WINDOWS:]
    found, time = {}, str(split.column if split.kind == "window" else columns.time)
    for frame, cost in zip(frames, costs, strict=True):
        if cost:
            rows = nw.from_native(frame, eager_only=True)
            found[str(rows.get_column(time).cast(nw.Date).min())] = rows
    newest = costs[0]
    columns = columns.model_copy(update={"time": time})
    return summarise(found, newest["baselines"], read_targets(newest), columns, report.error_by, newest["levels"])


def plot_backtest(metrics: dict[str, Any]) -> Plot:
    """Losses of all models by window, and by week of the horizon; of several targets the first one."""
    from embedline.pipelines.tabular import plots

    first = metrics if "losses" in metrics else next(iter(metrics.values()))
    return plots.plot_backtest(first, "Back-test: each window forecast from the rows before it")
