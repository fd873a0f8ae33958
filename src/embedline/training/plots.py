"""Plots that several learners draw: their look, the range test, and the plots of a classifier's predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from embedline.training.metrics import calibration_bins, confusion_matrix, expected_calibration_error

INK, ACCENT, SECOND, MUTED = "#1f2933", "#2563eb", "#d97706", "#9aa5b1"
NEUTRAL = "#64748b"  # of a line that is read on white and on black: kedro-viz has both, and replaces the template alone
COLOURS = [ACCENT, SECOND, "#059669", "#dc2626", "#7c3aed", "#0891b2"]
_AXIS = {"gridcolor": "#e7eaee", "zerolinecolor": "#e7eaee", "linecolor": "#e7eaee", "automargin": True}
# The look. The report has a template of its own for its colours, with the same places of the legend and the panels; it
# writes the title above the plot, so that the title here takes its room only where it is drawn.
LAYOUT = {
    "template": {
        "layout": {
            "font": {"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
            "colorway": COLOURS,
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": _AXIS,
            "yaxis": _AXIS,
            "margin": {"l": 64, "r": 40, "t": 34, "b": 56},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "title": {
                **{"automargin": True, "yref": "container", "x": 0.05, "y": 1, "yanchor": "top"},
                "pad": {"t": 14, "b": 22},
            },
        }
    }
}
SHADES = {"zmin": 0.0, "zmax": 1.0, "colorscale": [[0.0, "#f5f8ff"], [1.0, ACCENT]], "showscale": False}
MOST_NUMBERS = 12  # classes for whose counts a cell has room


def principal_components(vectors: NDArray[np.floating], n_components: int = 2) -> NDArray[np.float64]:
    """Project rows [N, D] on their first principal components, [N, n_components], zero-padded where D is smaller.

    The largest loading of each axis is positive, so that a plot does not flip between runs.
    """
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:n_components]  # PCA of scikit-learn refuses a single row
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    projected = centred @ (axes * signs[:, None]).T
    return np.pad(projected, ((0, 0), (0, n_components - projected.shape[1])))


def plot_range_test(rates: pl.DataFrame, title: str, loss: str = "smoothed loss") -> go.Figure:
    """Smoothed ``loss``, named with its unit, against the learning rate on a log axis, with the suggestion, if any.

    ``rates`` is a frame of :meth:`embedline.training.lr_finder.RangeTest.frame`.
    """
    figure = go.Figure(go.Scatter(x=rates["rate"], y=rates["loss"], line={"color": ACCENT}, showlegend=False))
    if rates["suggestion"].count():
        suggestion, ends = rates["suggestion"][0], [rates["loss"].min(), rates["loss"].max()]
        style = {"mode": "lines", "line": {"dash": "dash", "color": SECOND}, "name": f"suggested: {suggestion:.1e}"}
        figure.add_scatter(x=[suggestion, suggestion], y=ends, **style)
    figure.update_xaxes(type="log", exponentformat="power", title="learning rate", dtick=1)
    figure.update_yaxes(title=loss)
    return figure.update_layout(title=title, height=360, **LAYOUT)


def plot_confusion(
    actual: NDArray[np.integer], predicted: NDArray[np.integer], classes: Sequence[str], title: str
) -> go.Figure:
    """Counts of actual against predicted classes; the arguments are those of :func:`add_confusion`."""
    figure = go.Figure()
    add_confusion(figure, actual, predicted, classes)
    return figure.update_layout(title=title, height=confusion_height(classes), **LAYOUT)


def add_confusion(
    figure: go.Figure,
    actual: NDArray[np.integer],
    predicted: NDArray[np.integer],
    classes: Sequence[str],
    **panel: int,
) -> None:
    """Add a confusion matrix, shaded by the share of the actual class and read downwards, to a figure.

    ``actual`` and ``predicted`` int [N] number each row's class; ``panel`` is ``row`` and ``col`` in a figure of
    several.
    """
    counts = confusion_matrix(actual, predicted, len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = np.vectorize("{:,}<br>{:.1%}".format, otypes=[object])(counts, shares)
    # Numbers are drawn while a cell holds them; hovering shows them in any case.
    shown = "%{text}" if len(classes) <= MOST_NUMBERS else None
    hover = "actual %{y}, predicted %{x}: %{text}<extra></extra>"
    axes, style = {"x": list(classes), "y": list(classes)}, {"texttemplate": shown, "hovertemplate": hover, **SHADES}
    figure.add_heatmap(z=shares, text=labels, xgap=2, ygap=2, **axes, **style, **panel)
    slant = -30 if len(classes) > 2 and max(map(len, classes)) > 12 else 0  # long names would run into one another
    look = {"type": "category", "showgrid": False, "automargin": True}
    figure.update_xaxes(title_text="predicted", tickangle=slant, **look, **panel)
    figure.update_yaxes(title_text="actual", autorange="reversed", **look, **panel)


def confusion_height(classes: Sequence[str]) -> int:
    """Height in pixels that leaves a confusion matrix its numbers."""
    return 240 + 64 * min(len(classes), MOST_NUMBERS)


def plot_calibration(
    models: Mapping[str, tuple[NDArray[np.integer], NDArray[np.floating]]],
    title: str,
    *,
    n_bins: int = 15,
    rows: str = "rows",
) -> go.Figure:
    """Reliability diagram: accuracy by confidence for each of ``models``, with the counts of ``rows`` below.

    Points on the diagonal are honest, those below it too sure (Guo et al. 2017, arXiv:1706.04599). ``models`` has by
    name the actual classes int [N] and the probabilities float [N, C], the same C for all.
    """
    n_classes = next(iter(models.values()))[1].shape[1]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.06)
    ends = [1 / n_classes, 1.0]  # the greatest of C probabilities is 1 / C at least
    diagonal = {"mode": "lines", "line": {"color": MUTED, "dash": "dash"}, "name": "perfect"}
    figure.add_scatter(x=ends, y=ends, row=1, col=1, **diagonal)
    for place, (name, (actual, probabilities)) in enumerate(models.items()):
        colour = COLOURS[place % len(COLOURS)]
        bins = calibration_bins(actual, probabilities, n_bins)
        table = pl.from_dicts(bins)
        figure.add_scatter(
            x=table["confidence"],
            y=table["accuracy"],
            customdata=table["count"],
            mode="lines+markers",
            line={"color": colour},
            name=f"{name} (ECE {expected_calibration_error(bins):.3f})",
            legendgroup=name,
            hovertemplate=f"confidence %{{x:.1%}}, accuracy %{{y:.1%}}: %{{customdata:,}} {rows}<extra></extra>",
            row=1,
            col=1,
        )
        style = {"marker_color": colour, "legendgroup": name, "showlegend": False}
        centres, hover = (table["lower"] + table["upper"]) / 2, f"%{{y:,}} {rows}<extra></extra>"
        figure.add_bar(x=centres, y=table["count"], hovertemplate=hover, row=2, col=1, **style)
    first_bin = np.floor(n_bins / n_classes) / n_bins
    figure.update_xaxes(tickformat=".0%", tick0=0, dtick=0.1, range=[first_bin - 0.01, 1.01])
    figure.update_xaxes(title_text="confidence: probability<br>of the predicted class", row=2, col=1)
    figure.update_yaxes(title_text="accuracy", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title_text=rows, row=2, col=1)
    return figure.update_layout(title=title, height=570, bargap=0.1, **LAYOUT)
