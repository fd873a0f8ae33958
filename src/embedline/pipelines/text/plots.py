"""Plotly plots of a text model, from the artifacts that the pipeline stores."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from embedline.errors import DataError
from embedline.training.plots import ACCENT, LAYOUT, MUTED, NEUTRAL, SECOND

HELD_OUT = (SECOND, "#059669")
# Metrics of the validation documents: fractions (0 to 1), and others.
LOSS = "validation_loss"
FRACTIONS = ("accuracy", "next_word_accuracy")
METRICS = ("perplexity", *FRACTIONS)


def plot_training(history: pl.DataFrame, title: str) -> go.Figure:
    """Plot the loss, the validation metrics and the learning rate of a training, and mark its stages if it has any.

    Args:
        history: in the order of the training, ``epoch``, ``lr``, ``train_loss`` (nats) and any of :data:`LOSS` and
            :data:`METRICS` (null in rows without a measurement); with stages also ``stage``, a name or a number from 0.
            Each stage may count its epochs from 0.
    """
    if missing := [name for name in ("epoch", "lr", "train_loss") if name not in history.columns]:
        raise DataError(f"the history has no column {missing[0]!r}; it has: {', '.join(history.columns)}")
    position = _position(history)
    measured = [name for name in METRICS if name in history.columns and history[name].null_count() < len(history)][:2]
    # A perplexity and a fraction do not fit on one axis.
    two_scales = len({name in FRACTIONS for name in measured}) == 2
    heights = [0.46, 0.32, 0.22] if measured else [0.7, 0.3]
    specs = [[{"secondary_y": row == 1 and two_scales}] for row in range(len(heights))]
    look = {"shared_xaxes": True, "row_heights": heights, "vertical_spacing": 0.06}
    figure = make_subplots(rows=len(heights), cols=1, specs=specs, **look)
    line = {"color": ACCENT, "width": 1.5}
    figure.add_scatter(x=position, y=history["train_loss"], name="training loss", line=line, row=1, col=1)
    if LOSS in history.columns:
        _add_metric(figure, position, history[LOSS].alias("loss"), NEUTRAL, row=1, col=1)
    for place, name in enumerate(measured):
        second = place == 1 and two_scales
        _add_metric(figure, position, history[name], HELD_OUT[place], row=2, col=1, secondary_y=second)
        if place == 0 or two_scales:
            text = name.replace("_", " ") if two_scales or len(measured) == 1 else "held-out rows"
            figure.update_yaxes(
                title={"text": text, "font": {"color": HELD_OUT[place]} if two_scales else {}},
                tickformat=".1%" if name in FRACTIONS else None,
                showgrid=not second,
                tickmode="auto",  # by default a second axis takes the places of the first one's ticks
                nticks=5,
                row=2,
                col=1,
                secondary_y=second,
            )
    last = {"row": len(heights), "col": 1}
    figure.add_scatter(x=position, y=history["lr"], line={"color": MUTED}, showlegend=False, name="lr", **last)
    figure.update_yaxes(title_text="loss (nats)", row=1, col=1)
    figure.update_yaxes(title_text="learning rate", exponentformat="power", **last)
    figure.update_xaxes(title_text="epoch", **last)
    if "stage" in history.columns:
        _mark_stages(figure, history["stage"], position)
    height = 600 if measured else 440
    above = 24 if "stage" in history.columns else 6  # pixels between the legend and the panels, for the stages' names
    legend = {"y": 1 + above / (height - 130)}
    return figure.update_layout(title=title, height=height, legend=legend, margin={"r": 64}, **LAYOUT)


def _add_metric(figure: go.Figure, position: pl.Series, values: pl.Series, colour: str, **place: Any) -> None:
    """Draw one metric of the validation documents in the rows that have it."""
    known, name = values.is_not_null(), f"held-out {values.name.replace('_', ' ')}"
    x, y, line = position.filter(known), values.filter(known), {"color": colour}
    figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line=line, **place)


def _position(history: pl.DataFrame) -> pl.Series:
    """Epochs since the beginning of the training, float64 [rows], even if each stage counts its epochs from 0."""
    epochs = history["epoch"].cast(pl.Float64).to_numpy()
    before = np.append(0.0, epochs[:-1])
    return pl.Series("epoch", epochs + np.cumsum(np.where(epochs <= before, before, 0.0)))


def _mark_stages(figure: go.Figure, stages: pl.Series, position: pl.Series) -> None:
    """Draw a dotted line at the start of each stage, and its name above its middle."""
    starts = [row for row in range(len(stages)) if row == 0 or stages[row] != stages[row - 1]]
    borders = [0.0, *(position[row - 1] for row in starts[1:]), position[-1]]
    for border in borders[1:-1]:
        figure.add_vline(x=border, line={"color": MUTED, "dash": "dot", "width": 1})
    for row, left, right in zip(starts, borders, borders[1:], strict=False):
        name = stages[row] if stages.dtype == pl.String else f"stage {stages[row] + 1}"
        figure.add_annotation(x=(left + right) / 2, y=1.0, yref="paper", yanchor="bottom", text=name, showarrow=False)
