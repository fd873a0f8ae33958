"""Plots of the page: the stored ones, and three of its own.

A plot is a Plotly figure as JSON: ``{"data": [...], "layout": {...}}``. The script of the page gives all of them one
look, and replaces the colours in the dark scheme.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from embedline.errors import DataError
from embedline.pipelines.report.comparisons import Comparison
from embedline.pipelines.report.metrics import Metric, format_number

Json = dict[str, Any]

ACCENT, SECOND, MUTED = "#2563eb", "#d97706", "#9aa5b1"  # as in the stored plots
PANEL = 330  # pixels that a panel needs beside others to be read
WIDE = ("forecast", "forecast_plot", "overview", "history")  # plots over the width of the page
ORDER = (  # of the plots that the page knows
    "forecast_plot",
    "error_plot",
    "confusion_plot",
    "calibration_plot",
    "mistakes_plot",
    "activation_plot",
    "batch_plot",
    "importance_plot",
    "embedding_plot",
    "map_plot",
    "crosstab_plot",
    "bias_plot",
    "cold_start_plot",
    "training_plot",
    "language_model_plot",
    "learning_rate_plot",
    "language_model_rate_plot",
    "classifier_rate_plot",
)


def prepare(plot: Mapping[str, Any], name: str) -> Json:
    """A plot for the page: its title and note as texts, which the page writes itself, and what to draw.

    Returns:
        ``name``, ``title``, ``note`` (the subtitle), ``least_width`` (pixels), ``fixed`` (whether this is the exact
        width), ``wide`` (whether it takes the width of the page), ``height`` (pixels), ``data`` and ``layout``.
    """
    if not isinstance(plot.get("data"), list) or not isinstance(plot.get("layout"), Mapping):
        raise DataError(f"{name} is no Plotly figure: it has no data and layout")
    layout = dict(plot["layout"])
    title, width = layout.pop("title", None) or {}, layout.pop("width", None)
    layout.pop("template", None)
    for key, axis in layout.items():  # a label at each digit of a decade: one stands over the next
        if key.startswith("yaxis") and axis.get("type") == "log":
            layout[key] = {"dtick": "D2", **axis}
    # Panels side by side: different places where x axes begin.
    axes = (axis for key, axis in layout.items() if key.startswith("xaxis"))
    columns = len({round(float((axis.get("domain") or [0.0])[0]), 3) for axis in axes})
    return {
        "name": name,
        "title": title.get("text") or name.replace("_", " "),
        "note": (title.get("subtitle") or {}).get("text") or "",
        "least_width": int(width or (PANEL * columns if columns > 1 else 0)),
        "fixed": bool(width),
        "wide": bool(width) or columns > 1 or name in WIDE,
        "height": int(layout.get("height") or 420),
        "data": plot["data"],
        "layout": layout,
    }


def in_order(names: Sequence[str]) -> list[str]:
    """Names of plots in the order of the page: predictions, the learned model, the training, then others."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def overview(comparisons: Mapping[str, Comparison]) -> Json | None:
    """Plot the error of each model and baseline relative to the best baseline; None without any baseline.

    The error is that of the main metric.

    Args:
        comparisons: by the label on the axis.
    """
    rows = {name: one for name, one in comparisons.items() if one.best_baseline and one.main}
    if not rows:
        return None
    marks: dict[str, list[tuple[str, float, str]]] = {"baseline": [], "embedline": []}
    for name, one in rows.items():
        metric, best = one.main, one.best_baseline
        assert metric is not None and best is not None
        unit = metric.error(best.values[metric.name]) or 1.0
        for rival in [*one.baselines, one.model]:
            if metric.name in rival.values:
                kind = "embedline" if rival is one.model else "baseline"
                value = rival.values[metric.name]
                shown = f"{name}, {rival.label}: {metric.label} {format_number(value)}"
                marks[kind].append((name, metric.error(value) / unit, shown))
    styles = {
        "baseline": {"color": "#ffffff", "size": 11, "line": {"color": SECOND, "width": 2}},
        "embedline": {"color": ACCENT, "size": 13},
    }
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "baselines" if kind == "baseline" else kind,
            "x": [x for _, x, _ in points],
            "y": [y for y, _, _ in points],
            "text": [shown for *_, shown in points],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": styles[kind],
            "cliponaxis": False,
        }
        for kind, points in marks.items()
    ]
    note = (
        "exp RMSPE, RMSE, share of wrong answers or 1 less NDCG of each model and baseline, in units of the best "
        "baseline's"
    )
    layout = {
        "title": {"text": "Against the baselines", "subtitle": {"text": note}},
        "height": 110 + 36 * len(rows),
        "margin": {"l": 10},
        "xaxis": {"title": {"text": "error / best baseline (left is better)"}, "zeroline": False},
        "yaxis": {"type": "category", "range": [len(rows) - 0.5, -0.5], "automargin": True, "ticksuffix": "  "},
        "shapes": [
            {
                "type": "line",
                "yref": "paper",
                "x0": 1,
                "x1": 1,
                "y0": 0,
                "y1": 1,
                "line": {"color": MUTED, "width": 1, "dash": "dot"},
            }
        ],
    }
    return prepare({"data": data, "layout": layout}, "overview")


def history(metric: Metric, model: Sequence[tuple[str, float]], best: Sequence[tuple[str, float]]) -> Json:
    """Plot the main metric of one source run by run, beside its best baseline.

    Args:
        model: (label of the run, value), oldest first.
        best: likewise, of the best baseline; may be empty.
    """
    lines = [("embedline", model, ACCENT, "solid"), ("best baseline", best, SECOND, "dot")]
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [label for label, _ in points],
            "y": [value for _, value in points],
            "line": {"color": colour, "dash": dash},
            "marker": {"size": 8},
            "cliponaxis": False,
        }
        for name, points, colour, dash in lines
        if points
    ]
    layout = {
        "title": {"text": f"{metric.label}, run by run"},
        "height": 260,
        "margin": {"b": 40},
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": metric.label}},
    }
    return prepare({"data": data, "layout": layout}, "history")


def forecast(days: Sequence[str], mean: Sequence[float], low: Sequence[float], high: Sequence[float]) -> Json:
    """Plot a forecast without actual values: the mean of each day, and the middle 80 % of its rows.

    Args:
        days: ISO dates, in order; the others have a value for each.
    """
    band = {"type": "scatter", "x": list(days), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    data: list[Json] = [
        {**band, "y": list(low), "showlegend": False},
        {**band, "y": list(high), "fill": "tonexty", "fillcolor": "rgba(37, 99, 235, 0.18)", "name": "middle 80 %"},
        {"type": "scatter", "x": list(days), "y": list(mean), "name": "mean", "mode": "lines+markers"},
    ]
    data[2] |= {"line": {"color": ACCENT, "width": 2}, "marker": {"size": 5}}
    layout = {
        "title": {"text": "Forecast of the rows without a target"},
        "height": 380,
        "margin": {"b": 40},
        "yaxis": {"title": {"text": "predicted"}, "rangemode": "tozero"},
    }
    return prepare({"data": data, "layout": layout}, "forecast")
