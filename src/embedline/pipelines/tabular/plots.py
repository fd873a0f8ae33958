"""Plots of a tabular model (Plotly), drawn from the artifacts that the pipeline stores."""

import itertools
from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from embedline.errors import DataError
from embedline.pipelines.tabular.intervals import LOWER, UPPER, interval_levels
from embedline.pipelines.tabular.options import ReportOptions
from embedline.pipelines.tabular.predictions import (
    PREDICTED,
    baseline_names,
    probability_names,
    read_actual,
    read_classes,
    read_prediction,
)
from embedline.pipelines.tabular.targets import UNKNOWN, ClassTarget
from embedline.training.plots import (
    ACCENT,
    COLOURS,
    LAYOUT,
    MUTED,
    NEUTRAL,
    SECOND,
    add_confusion,
    confusion_height,
    plot_calibration,
    principal_components,
)

HELD_OUT = ("exp_rmspe", "rmse", "accuracy")  # metrics of the test split, the first that a history has is drawn
MOST_BARS = 15  # variables in a plot of importances: those after them move next to nothing
BAND = "rgba(37, 99, 235, 0.15)"  # the accent, so light that bands above each other are told apart
GROUPS_HEIGHT = 360  # pixels of the panels with the error by the values of a column


def plot_training(history: pl.DataFrame, title: str) -> go.Figure:
    """Plot the loss of each member, a metric of the test split by epoch, and the learning rate below.

    With several targets, whose metrics have the name of the target as prefix, the first target is drawn.
    """
    held_out = next((name for name in history.columns if name.rpartition(".")[2] in HELD_OUT), None)
    prefix, _, metric = (held_out or "").rpartition(".")
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.68, 0.32],
        vertical_spacing=0.08,
        specs=[[{"secondary_y": True}], [{}]],
    )
    for member, records in history.group_by("member", maintain_order=True):
        first = member[0] == 0
        figure.add_scatter(
            x=records["epoch"],
            y=records["train_loss"],
            name="training loss",
            line={"color": ACCENT, "width": 1.5},
            legendgroup="loss",
            showlegend=first,
            row=1,
            col=1,
        )
        if held_out:
            style = {"name": f"held-out {held_out}", "line": {"color": SECOND}, "showlegend": first}
            _mark(figure, records, held_out, secondary_y=True, **style)
        if metric == "accuracy" and not prefix:  # the loss of one target is not comparable with a sum of losses
            style = {"name": "held-out log loss", "line": {"color": NEUTRAL}, "showlegend": first}
            _mark(figure, records, "log_loss", secondary_y=False, **style)
    rates = history.filter(pl.col("member") == 0)
    figure.add_scatter(x=rates["epoch"], y=rates["lr"], line={"color": MUTED}, showlegend=False, row=2, col=1)
    unit = "sum of all targets" if prefix else "nats" if metric == "accuracy" else "standardised target"
    figure.update_yaxes(title_text=f"loss ({unit})", type="log", row=1, col=1, secondary_y=False)
    # Explicit ticks: by default a second axis copies the ticks of the first one, here of a logarithmic scale.
    own = {"showgrid": False, "tickmode": "auto", "tickformat": ".1%" if metric == "accuracy" else None}
    figure.update_yaxes(title_text=held_out, row=1, col=1, secondary_y=True, **own)
    figure.update_yaxes(title_text="learning rate", row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_layout(title=title, height=490, **LAYOUT)


def _mark(figure: go.Figure, records: pl.DataFrame, column: str, **settings: Any) -> None:
    """Draw a metric of the test split at the ends of the epochs, where it was computed."""
    measured = records.filter(pl.col(column).is_not_null())
    settings = {"mode": "lines+markers", "legendgroup": column, "row": 1, "col": 1, **settings}
    figure.add_scatter(x=measured["epoch"], y=measured[column], **settings)


def plot_forecast(predictions: pl.DataFrame, time: str, report: ReportOptions, title: str) -> go.Figure:
    """Plot actual and predicted values over time, one panel for each of a few series, with intervals as bands.

    Without series the means of all rows are drawn, which the intervals of single rows say nothing of.
    """
    by = report.series_by
    if by is None:
        means = predictions.group_by(time, maintain_order=True).agg(pl.col("actual", "predicted").mean())
        names, series = ["all rows"], [means]
    else:
        values = predictions[by].unique().sort()
        chosen = [values[int(k)] for k in np.linspace(0, len(values) - 1, min(report.n_series, len(values))).round()]
        names = [f"{by} {value}" for value in chosen]
        series = [predictions.filter(pl.col(by) == value) for value in chosen]
    figure = make_subplots(
        rows=len(series), cols=1, shared_xaxes=True, subplot_titles=names, vertical_spacing=min(0.06, 0.4 / len(series))
    )
    for row, frame in enumerate(series, start=1):
        rows = frame.sort(time)
        for level in reversed(interval_levels(rows.columns)):  # the widest first, below the others
            _add_band(figure, rows, time, level, row=row)
        for column, name, style in (
            ("actual", "actual", {"color": NEUTRAL, "width": 2}),
            ("predicted", "predicted", {"color": ACCENT, "width": 2, "dash": "dot"}),
        ):
            figure.add_scatter(
                x=rows[time],
                y=rows[column],
                name=name,
                line=style,
                mode="lines+markers",
                marker={"size": 4},
                legendgroup=name,
                showlegend=row == 1,
                row=row,
                col=1,
            )
    legend = {"y": 1.04, "x": 1, "xanchor": "right"}
    return figure.update_layout(title=title, height=180 * len(series) + 110, legend=legend, **LAYOUT)


def _add_band(figure: go.Figure, rows: pl.DataFrame, time: str, level: str, *, row: int) -> None:
    """Draw an interval of a series: down from its upper end to its lower one."""
    shared = {"x": rows[time], "mode": "lines", "line": {"width": 0}, "legendgroup": level, "row": row, "col": 1}
    figure.add_scatter(y=rows[f"{UPPER}{level}"], showlegend=False, hoverinfo="skip", **shared)
    figure.add_scatter(
        y=rows[f"{LOWER}{level}"],
        name=f"{level} % interval",
        fill="tonexty",
        fillcolor=BAND,
        showlegend=row == 1,
        **shared,
    )


def plot_backtest(metrics: Mapping[str, Any], title: str) -> go.Figure:
    """Plot the loss of each model by window, and its mean over the windows by week of the horizon."""
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=("by window", "by week ahead")
    )
    windows = sorted(metrics["windows"])
    for colour, (name, summary) in zip(itertools.cycle(COLOURS), metrics["losses"].items()):
        by_window = [metrics["windows"][window] for window in windows]
        values = [
            each[metrics["loss"]] if name == "model" else each["baselines"][name][metrics["loss"]] for each in by_window
        ]
        style = {"name": name, "legendgroup": name, "mode": "lines+markers", "line": {"color": colour}, "row": 1}
        figure.add_scatter(x=windows, y=values, col=1, **style)
        weeks = summary["by_week"]
        figure.add_scatter(x=list(map(int, weeks)), y=list(weeks.values()), col=2, showlegend=False, **style)
    figure.update_xaxes(type="category", title_text="first day of the window", row=1, col=1)
    figure.update_xaxes(title_text="week", dtick=1, row=1, col=2)
    figure.update_yaxes(title_text=metrics["loss"], row=1, col=1)
    return figure.update_layout(title=title, height=420, **LAYOUT)


def plot_actual_predicted(predictions: pl.DataFrame, title: str, n_points: int = 2000) -> go.Figure:
    """Plot predicted against actual values of a sample of rows; a perfect model lies on the diagonal."""
    rows = predictions.sample(min(n_points, len(predictions)), seed=0)
    ends = [rows["actual"].min(), rows["actual"].max()]
    figure = go.Figure(go.Scatter(x=ends, y=ends, mode="lines", line={"color": MUTED}, name="predicted = actual"))
    figure.add_scatter(
        x=rows["actual"], y=rows["predicted"], mode="markers", marker={"color": ACCENT, "size": 4}, name="held-out rows"
    )
    figure.update_xaxes(title_text="actual")
    figure.update_yaxes(title_text="predicted")
    return figure.update_layout(title=title, height=450, **LAYOUT)


def plot_errors(predictions: pl.DataFrame, report: ReportOptions, title: str) -> go.Figure:
    """Plot the error (root mean square) and the bias by the values of each column of ``report.error_by``.

    Both are relative to the actual values if all of these are positive, else in the units of the target.
    """
    figure = make_subplots(rows=1, cols=max(1, len(report.error_by)), subplot_titles=list(report.error_by))
    positive = bool((predictions["actual"] > 0).all())
    error = pl.col("predicted") - pl.col("actual")
    if positive:
        error = error / pl.col("actual")
    for position, column in enumerate(report.error_by, start=1):
        groups = (
            predictions.group_by(column, maintain_order=True)  # else Polars sums in parallel, in any order
            .agg(error.pow(2).mean().sqrt().alias("error"), error.mean().alias("bias"), pl.len().alias("rows"))
            .sort(column)
        )
        labels = groups[column].cast(pl.String)
        figure.add_bar(
            x=labels,
            y=groups["error"],
            name="relative error (RMS)" if positive else "error (RMS)",
            marker_color=ACCENT,
            legendgroup="error",
            showlegend=position == 1,
            customdata=groups["rows"],
            row=1,
            col=position,
            hovertemplate="%{x}: %{y:.4f} over %{customdata} rows<extra></extra>",
        )
        figure.add_scatter(
            x=labels,
            y=groups["bias"],
            name="bias (mean of predicted / actual - 1)" if positive else "bias (mean of predicted - actual)",
            mode="markers",
            marker={"color": SECOND, "size": 9},
            legendgroup="bias",
            showlegend=position == 1,
            row=1,
            col=position,
        )
        figure.update_xaxes(type="category", row=1, col=position)
    figure.update_yaxes(tickformat=".0%" if positive else None)
    return figure.update_layout(title=title, height=400, legend={"y": -0.15, "yanchor": "top"}, **LAYOUT)


def plot_embeddings(embeddings: pl.DataFrame, report: ReportOptions, title: str) -> go.Figure:
    """Plot the first two principal components of the embeddings of the variables in ``report.embeddings``."""
    figure = make_subplots(
        rows=1, cols=max(1, len(report.embeddings)), subplot_titles=list(report.embeddings), horizontal_spacing=0.08
    )
    for position, variable in enumerate(report.embeddings, start=1):
        rows = embeddings.filter((pl.col("variable") == variable) & (pl.col("value") != UNKNOWN))
        if rows.is_empty():
            known = ", ".join(embeddings["variable"].unique(maintain_order=True))
            raise DataError(f"report.embeddings names {variable!r}, which has no embedding; these have: {known}")
        points = principal_components(np.stack(rows["embedding"].to_list()))
        figure.add_scatter(
            x=points[:, 0],
            y=points[:, 1],
            text=rows["value"],
            mode="markers+text",
            textposition="top center",
            marker={"color": ACCENT, "size": 9},
            showlegend=False,
            row=1,
            col=position,
            cliponaxis=False,
        )
        figure.update_xaxes(title_text="component 1", row=1, col=position)
        figure.update_yaxes(title_text="component 2", row=1, col=position)
    return figure.update_layout(title=title, height=440, **LAYOUT)


def plot_importance(importance: pl.DataFrame, title: str) -> go.Figure:
    """Plot the increase of the loss when each variable is shuffled, the greatest on top.

    Whiskers are one standard deviation of the repeats. The first of several targets is drawn, and at most
    :data:`MOST_BARS` variables.
    """
    rows = importance.filter(pl.col("target") == importance["target"][0]).head(MOST_BARS).reverse()
    figure = go.Figure(
        go.Bar(
            x=rows["increase"],
            y=rows["variable"],
            error_x={"type": "data", "array": rows["deviation"].to_list(), "color": MUTED},
            orientation="h",
            marker_color=ACCENT,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text=f"increase of {rows['loss'][0].replace('_', ' ')} when shuffled")
    figure.update_yaxes(type="category", automargin=True)
    return figure.update_layout(title=title, height=120 + 22 * len(rows), **LAYOUT)


def plot_reliability(predictions: pl.DataFrame, target: ClassTarget, prefix: str, title: str) -> go.Figure:
    """Plot accuracy by confidence of the network and of each baseline on the test split (reliability diagram)."""
    frame = nw.from_native(predictions, eager_only=True)
    actual = read_actual(frame, target, prefix)
    models = {"network": (actual, read_prediction(frame, target, prefix))}
    for name in baseline_names(predictions.columns, target, prefix):
        models[name] = (actual, read_prediction(frame, target, prefix, name))
    return plot_calibration(models, title)


def plot_class_errors(
    predictions: pl.DataFrame, target: ClassTarget, prefix: str, report: ReportOptions, title: str
) -> go.Figure:
    """Plot the confusion matrix, and below it the error rate by the values of each column of ``report.error_by``.

    Each rate is drawn with the rate that the network expects, the mean of 1 minus its confidence.
    """
    frame = nw.from_native(predictions, eager_only=True)
    panels = max(1, len(report.error_by))
    matrix = confusion_height(target.names)
    heights = [matrix, GROUPS_HEIGHT] if report.error_by else [matrix]
    below: list[Any] = [[{} for _ in range(panels)]] if report.error_by else []
    figure = make_subplots(
        rows=len(heights),
        cols=panels,
        row_heights=heights,
        vertical_spacing=0.16,
        specs=[[{"colspan": panels}, *[None] * (panels - 1)], *below],
        subplot_titles=["", *report.error_by],
    )
    actual, predicted = read_actual(frame, target, prefix), read_classes(frame, target, prefix)
    add_confusion(figure, actual, predicted, target.names, row=1, col=1)
    confidence = pl.max_horizontal(*probability_names(target, prefix))
    wrong = pl.col(prefix + PREDICTED) != pl.col(prefix + "actual")
    for position, column in enumerate(report.error_by, start=1):
        groups = (
            predictions.group_by(column, maintain_order=True)  # else Polars sums in parallel, in any order
            .agg(wrong.mean().alias("error"), (1.0 - confidence).mean().alias("expected"), pl.len().alias("rows"))
            .sort(column)
        )
        labels = groups[column].cast(pl.String).fill_null("(missing)")
        figure.add_bar(
            x=labels,
            y=groups["error"],
            name="error rate",
            marker_color=ACCENT,
            legendgroup="error",
            showlegend=position == 1,
            customdata=groups["rows"],
            row=2,
            col=position,
            hovertemplate="%{x}: %{y:.1%} of %{customdata} rows<extra></extra>",
        )
        figure.add_scatter(
            x=labels,
            y=groups["expected"],
            name="expected by the network",
            mode="markers",
            marker={"color": SECOND, "size": 9},
            legendgroup="expected",
            showlegend=position == 1,
            row=2,
            col=position,
        )
        figure.update_xaxes(type="category", automargin=True, row=2, col=position)
        figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=2, col=position)
    return figure.update_layout(title=title, height=sum(heights), **LAYOUT)
