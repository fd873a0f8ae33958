"""Plots of a tabular model, as Plotly figures from the artifacts that the pipeline stores."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from embedline.errors import DataError
from embedline.pipelines.tabular.embeddings import UNKNOWN
from embedline.pipelines.tabular.options import ReportOptions
from embedline.training.plots import ACCENT, INK, LAYOUT, MUTED, SECOND, principal_components

HELD_OUT = ("exp_rmspe", "rmse", "accuracy")  # figures of the held-out rows to draw; a history has the first of its own
MOST_BARS = 40  # variables in a plot of importances


def training_figure(history: pl.DataFrame, title: str) -> go.Figure:
    """Loss of each member, figures of the held-out rows by epoch, and the learning rate below.

    Of several targets, whose figures bear their names in front, those of the first one are shown.
    """
    held_out = next((name for name in history.columns if name.rpartition(".")[2] in HELD_OUT), None)
    prefix, _, figure_name = (held_out or "").rpartition(".")
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
        if figure_name == "accuracy" and not prefix:  # a sum of losses is not to be compared with one of them
            style = {"name": "held-out log loss", "line": {"color": INK}, "showlegend": first}
            _mark(figure, records, "log_loss", secondary_y=False, **style)
    rates = history.filter(pl.col("member") == 0)
    figure.add_scatter(x=rates["epoch"], y=rates["lr"], line={"color": MUTED}, showlegend=False, row=2, col=1)
    unit = "sum of all targets" if prefix else "nats" if figure_name == "accuracy" else "standardised target"
    figure.update_yaxes(title_text=f"loss ({unit})", type="log", row=1, col=1, secondary_y=False)
    # Ticks of its own: by default a second axis takes the places of the first one's, here of a logarithmic scale.
    own = {"showgrid": False, "tickmode": "auto", "tickformat": ".1%" if figure_name == "accuracy" else None}
    figure.update_yaxes(title_text=held_out, row=1, col=1, secondary_y=True, **own)
    figure.update_yaxes(title_text="learning rate", row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_layout(title=title, height=520, legend={"orientation": "h", "y": 1.06}, **LAYOUT)


def _mark(figure: go.Figure, records: pl.DataFrame, column: str, **settings: Any) -> None:
    """Draw a figure of the held-out rows at the ends of the epochs, where it was measured."""
    measured = records.filter(pl.col(column).is_not_null())
    settings = {"mode": "lines+markers", "legendgroup": column, "row": 1, "col": 1, **settings}
    figure.add_scatter(x=measured["epoch"], y=measured[column], **settings)


def forecast_figure(predictions: pl.DataFrame, time: str, report: ReportOptions, title: str) -> go.Figure:
    """Actual against predicted over time, one panel for each of a few series."""
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
        for column, name, style in (
            ("actual", "actual", {"color": INK, "width": 2}),
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
    legend = {"orientation": "h", "y": 1.04, "x": 1, "xanchor": "right"}
    return figure.update_layout(title=title, height=180 * len(series) + 140, legend=legend, **LAYOUT)


def agreement_figure(predictions: pl.DataFrame, title: str, n_points: int = 2000) -> go.Figure:
    """Predicted against actual for a sample of rows without a time; a perfect model lies on the diagonal."""
    rows = predictions.sample(min(n_points, len(predictions)), seed=0)
    ends = [rows["actual"].min(), rows["actual"].max()]
    figure = go.Figure(go.Scatter(x=ends, y=ends, mode="lines", line={"color": MUTED}, name="predicted = actual"))
    figure.add_scatter(
        x=rows["actual"], y=rows["predicted"], mode="markers", marker={"color": ACCENT, "size": 4}, name="held-out rows"
    )
    figure.update_xaxes(title_text="actual")
    figure.update_yaxes(title_text="predicted")
    return figure.update_layout(title=title, height=480, **LAYOUT)


def error_figure(predictions: pl.DataFrame, report: ReportOptions, title: str) -> go.Figure:
    """Error (root mean square) and bias by the values of each column.

    Relative to the actual value where all of these are positive, else in the target's units.
    """
    figure = make_subplots(rows=1, cols=max(1, len(report.error_by)), subplot_titles=list(report.error_by))
    positive = bool((predictions["actual"] > 0).all())
    error = pl.col("predicted") - pl.col("actual")
    if positive:
        error = error / pl.col("actual")
    for position, column in enumerate(report.error_by, start=1):
        groups = (
            predictions.group_by(column, maintain_order=True)  # else sums are taken in parallel, in any order
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
    return figure.update_layout(title=title, height=440, legend={"orientation": "h", "y": -0.15}, **LAYOUT)


def embedding_figure(embeddings: pl.DataFrame, report: ReportOptions, title: str) -> go.Figure:
    """The first two principal components of the embeddings of the variables in ``report.embeddings``."""
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
    return figure.update_layout(title=title, height=480, **LAYOUT)


def importance_figure(importance: pl.DataFrame, title: str) -> go.Figure:
    """Increase of the loss with each variable shuffled, the greatest on top; whiskers are a deviation of the repeats.

    Of several targets the first one is drawn, of many variables the most important ones.
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
    return figure.update_layout(title=title, height=160 + 22 * len(rows), **LAYOUT)
