"""Plots of a text model, as Plotly figures from the artifacts that the pipeline stores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from embedline.errors import DataError
from embedline.text.report import prediction_arrays
from embedline.training.classification import calibration_bins, confusion_matrix, expected_calibration_error
from embedline.training.figures import ACCENT, INK, MUTED, SECOND
from embedline.training.figures import LAYOUT as LOOK

HELD_OUT = (SECOND, "#059669")
MARGIN = {"l": 72, "r": 64, "t": 88, "b": 64}  # room for a second axis and for the names of the stages
LAYOUT = {**LOOK, "margin": MARGIN}
SHADES = [[0.0, "#f5f8ff"], [1.0, ACCENT]]
# What a training measures on held-out text: as a share of 1, or in a unit of its own.
LOSSES = ("validation_loss", "valid_loss", "held_out_loss")
SHARES = ("accuracy", "f1", "f1_macro", "next_word_accuracy")
FIGURES = ("perplexity", *SHARES)


def confusion_plot(predictions: pl.DataFrame, classes: Sequence[str], title: str) -> go.Figure:
    """Counts of actual against predicted classes, shaded by the share of the actual class."""
    actual, probabilities = prediction_arrays(predictions, classes)
    counts = confusion_matrix(actual, probabilities.argmax(axis=1), len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [
        [f"{count:,}<br>{share:.1%}" for count, share in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            x=list(classes),
            y=list(classes),
            z=shares,
            zmin=0.0,
            zmax=1.0,
            text=labels,
            # Numbers are drawn while a cell holds them; hovering shows them in any case.
            texttemplate="%{text}" if len(classes) <= 12 else None,
            colorscale=SHADES,
            showscale=False,
            hovertemplate="actual %{y}, predicted %{x}: %{text}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    )
    slant = -30 if len(classes) > 2 and max(map(len, classes)) > 12 else 0  # long names would run into one another
    figure.update_xaxes(title_text="predicted", type="category", showgrid=False, automargin=True, tickangle=slant)
    figure.update_yaxes(title_text="actual", type="category", autorange="reversed", showgrid=False, automargin=True)
    height = 280 + 64 * min(len(classes), 12)
    return figure.update_layout(title=title, height=height, **LAYOUT)


def calibration_plot(
    predictions: pl.DataFrame,
    baseline_predictions: pl.DataFrame | None,
    classes: Sequence[str],
    title: str,
    n_bins: int = 15,
) -> go.Figure:
    """Reliability diagram of the classifier and its baseline: accuracy by confidence, with the documents' counts below.

    Points on the diagonal are honest, those below it too sure (Guo et al. 2017).
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.06)
    ends = [1 / len(classes), 1.0]  # the greatest of C probabilities is 1 / C at least
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": MUTED, "dash": "dash"}, name="perfect", row=1, col=1
    )
    for name, frame, colour in (
        ("classifier", predictions, ACCENT),
        ("baseline", baseline_predictions, SECOND),
    ):
        if frame is None:
            continue
        bins = calibration_bins(*prediction_arrays(frame, classes), n_bins)
        rows = pl.from_dicts(bins)
        figure.add_scatter(
            x=rows["confidence"],
            y=rows["accuracy"],
            customdata=rows["count"],
            mode="lines+markers",
            line={"color": colour},
            name=f"{name} (ECE {expected_calibration_error(bins):.3f})",
            legendgroup=name,
            hovertemplate="confidence %{x:.1%}, accuracy %{y:.1%}: %{customdata:,} documents<extra></extra>",
            row=1,
            col=1,
        )
        figure.add_bar(
            x=(rows["lower"] + rows["upper"]) / 2,
            y=rows["count"],
            marker_color=colour,
            legendgroup=name,
            showlegend=False,
            hovertemplate="%{y:,} documents<extra></extra>",
            row=2,
            col=1,
        )
    first_bin = np.floor(n_bins / len(classes)) / n_bins
    figure.update_xaxes(tickformat=".0%", tick0=0, dtick=0.1, range=[first_bin - 0.01, 1.01])
    figure.update_xaxes(title_text="confidence: probability of the predicted class", row=2, col=1)
    figure.update_yaxes(title_text="accuracy", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title_text="documents", row=2, col=1)
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return figure.update_layout(title=title, height=600, legend=legend, bargap=0.1, **LAYOUT)


def training_plot(history: pl.DataFrame, title: str) -> go.Figure:
    """Loss, figures of the held-out rows and learning rate over the training; stages are marked where there are any.

    Args:
        history: in the order of the training ``epoch``, ``lr``, ``train_loss`` (nats) and any of :data:`LOSSES` and
            :data:`FIGURES`, null where they were not measured; ``stage`` (a name, or a number from 0) in a training of
            several, each of which may count its epochs from 0 again.
    """
    if missing := [name for name in ("epoch", "lr", "train_loss") if name not in history.columns]:
        raise DataError(f"the history has no column {missing[0]!r}; it has: {', '.join(history.columns)}")
    position = _position(history)
    measured = [name for name in FIGURES if name in history.columns and history[name].null_count() < len(history)][:2]
    two_scales = len({name in SHARES for name in measured}) == 2  # a perplexity and a share do not fit on one axis
    heights = [0.46, 0.32, 0.22] if measured else [0.7, 0.3]
    figure = make_subplots(
        rows=len(heights),
        cols=1,
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=0.06,
        specs=[[{"secondary_y": row == 1 and two_scales}] for row in range(len(heights))],
    )
    figure.add_scatter(
        x=position, y=history["train_loss"], name="training loss", line={"color": ACCENT, "width": 1.5}, row=1, col=1
    )
    for name in (name for name in LOSSES if name in history.columns):
        _held_out(figure, position, history[name].alias("loss"), INK, row=1, col=1)
    for place, name in enumerate(measured):
        second = place == 1 and two_scales
        _held_out(figure, position, history[name], HELD_OUT[place], row=2, col=1, secondary_y=second)
        if place == 0 or two_scales:
            text = name.replace("_", " ") if two_scales or len(measured) == 1 else "held-out rows"
            figure.update_yaxes(
                title={"text": text, "font": {"color": HELD_OUT[place] if two_scales else INK}},
                tickformat=".1%" if name in SHARES else None,
                showgrid=not second,
                tickmode="auto",  # by default a second axis takes the places of the first one's ticks
                nticks=5,
                row=2,
                col=1,
                secondary_y=second,
            )
    figure.add_scatter(
        x=position, y=history["lr"], line={"color": MUTED}, showlegend=False, name="lr", row=len(heights), col=1
    )
    figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
    figure.update_yaxes(title_text="learning rate", exponentformat="power", row=len(heights), col=1)
    figure.update_xaxes(title_text="epoch", row=len(heights), col=1)
    if "stage" in history.columns:
        _mark_stages(figure, history["stage"], position)
    height = 640 if measured else 480
    return figure.update_layout(
        title={"text": title, "yref": "container", "y": 1 - 28 / height},
        height=height,
        # In the container's measure: the names of the stages stand between the legend and the panels.
        legend={"orientation": "h", "yref": "container", "y": 1 - 48 / height, "yanchor": "top", "x": 0},
        **LAYOUT | {"margin": {**MARGIN, "t": 112 if "stage" in history.columns else 88}},
    )


def _held_out(figure: go.Figure, position: pl.Series, values: pl.Series, colour: str, **place: Any) -> None:
    """Draw one figure of the held-out rows where it was measured."""
    known = values.is_not_null()
    figure.add_scatter(
        x=position.filter(known),
        y=values.filter(known),
        name=f"held-out {values.name.replace('_', ' ')}",
        mode="lines+markers",
        line={"color": colour},
        **place,
    )


def _stage_starts(stages: pl.Series) -> list[int]:
    """Rows at which a stage begins."""
    return [row for row in range(len(stages)) if row == 0 or stages[row] != stages[row - 1]]


def _position(history: pl.DataFrame) -> pl.Series:
    """Epochs since the beginning of the training, float64 [rows]; a stage that counts from 0 again goes on instead."""
    epochs = history["epoch"].cast(pl.Float64).to_list()
    offset, position = 0.0, []
    for row, epoch in enumerate(epochs):
        if row and epoch <= epochs[row - 1]:
            offset += epochs[row - 1]
        position.append(offset + epoch)
    return pl.Series("epoch", position, dtype=pl.Float64)


def _mark_stages(figure: go.Figure, stages: pl.Series, position: pl.Series) -> None:
    """A dotted line where each stage begins (the end of the one before), and its name above its middle."""
    starts = _stage_starts(stages)
    borders = [0.0, *(position[row - 1] for row in starts[1:]), position[-1]]
    for border in borders[1:-1]:
        figure.add_vline(x=border, line={"color": MUTED, "dash": "dot", "width": 1})
    for row, left, right in zip(starts, borders, borders[1:], strict=False):
        name = stages[row] if stages.dtype == pl.String else f"stage {stages[row] + 1}"
        figure.add_annotation(x=(left + right) / 2, y=1.0, yref="paper", yanchor="bottom", text=name, showarrow=False)
