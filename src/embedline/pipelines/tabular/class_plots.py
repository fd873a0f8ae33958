"""Plots of a target with classes, as Plotly figures from the predictions that the pipeline stores."""

from typing import Any

import narwhals as nw
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from embedline.pipelines.tabular.options import ReportOptions
from embedline.pipelines.tabular.predictions import (
    PREDICTED,
    baseline_names,
    probability_names,
    read_actual,
    read_prediction,
)
from embedline.pipelines.tabular.targets import ClassTarget
from embedline.training.plots import (
    ACCENT,
    LAYOUT,
    SECOND,
    calibration_figure,
    confusion_height,
    confusion_trace,
    label_confusion,
)

GROUPS_HEIGHT = 360  # pixels of the panels with the error by the values of a column


def reliability_figure(predictions: pl.DataFrame, target: ClassTarget, prefix: str, title: str) -> go.Figure:
    """Accuracy by confidence of the network and of each baseline on the held-out rows."""
    frame = nw.from_native(predictions, eager_only=True)
    actual = read_actual(frame, target, prefix)
    models = {"network": (actual, read_prediction(frame, target, prefix))}
    for name in baseline_names(predictions.columns, target, prefix):
        models[name] = (actual, read_prediction(frame, target, prefix, name))
    return calibration_figure(models, title)


def mistakes_figure(
    predictions: pl.DataFrame, target: ClassTarget, prefix: str, report: ReportOptions, title: str
) -> go.Figure:
    """Confusion matrix, and below it the error rate by the values of each column of ``report.error_by``.

    Beside each rate is the one that the network expects, the mean of 1 minus its confidence.
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
    actual, prediction = read_actual(frame, target, prefix), read_prediction(frame, target, prefix)
    figure.add_trace(confusion_trace(actual, prediction, target.names), row=1, col=1)
    label_confusion(figure, target.names, row=1, col=1)
    confidence = pl.max_horizontal(*probability_names(target, prefix))
    wrong = pl.col(prefix + PREDICTED) != pl.col(prefix + "actual")
    for position, column in enumerate(report.error_by, start=1):
        groups = (
            predictions.group_by(column, maintain_order=True)  # else sums are taken in parallel, in any order
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
    legend = {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0}
    return figure.update_layout(title=title, height=sum(heights), legend=legend, **LAYOUT)
