"""Plots of the page: the stored ones without the titles that the page writes itself, and three plots of its own.

A plot is a Plotly figure as JSON: ``{"data": [...], "layout": {...}}``. The script of the page replaces the colours in
the dark scheme.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from embedline.errors import DataError
from embedline.pipelines.report.comparisons import Comparison
from embedline.pipelines.report.metrics import Metric, format_number

Json = dict[str, Any]

INK, ACCENT, SECOND, MUTED = "#1f2933", "#2563eb", "#d97706", "#9aa5b1"  # as in the stored plots
PANEL = 330  # pixels that a panel needs beside others to be read
TITLE_ROOM = 30  # pixels at the top that a title takes, which the page writes itself
LONGEST_TITLE = 42  # letters of the title of an axis in one line
ORDER = (  # of the plots that the page knows
    "forecast_plot",
    "error_plot",
    "confusion_plot",
    "calibration_plot",
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
    """A stored plot for the page: title and note as texts, the minimal width, and the data and layout to draw.

    Returns:
        ``name``, ``title``, ``note`` (the small text below the title), ``least_width`` (pixels), ``fixed`` (whether
        this is the exact width), ``wide`` (whether it takes the width of the page), ``height`` (pixels), ``data`` and
        ``layout``.
    """
    if not isinstance(plot.get("data"), list) or not isinstance(plot.get("layout"), Mapping):
        raise DataError(f"{name} is no Plotly figure: it has no data and layout")
    layout = {key: value for key, value in plot["layout"].items() if key not in ("template", "title", "font")}
    title, _, note = _text(plot["layout"].get("title")).partition("<br>")
    note = note.removeprefix("<sub>").removesuffix("</sub>")
    width, columns = layout.pop("width", None), _columns(layout)
    height = int(layout.get("height") or 420)
    margin = dict(layout.get("margin") or {})
    if title and margin.get("t"):
        top = _top(plot["data"], layout, margin["t"], note)
        layout["margin"] = {**margin, "t": top}
        layout["height"] = height = height - (margin["t"] - top)
    layout["legend"] = _legend(layout.get("legend") or {})
    layout |= {key: _wrapped(axis) for key, axis in layout.items() if key.startswith("xaxis")}
    return {
        "name": name,
        "title": title or name.replace("_", " "),
        "note": note,
        "least_width": int(width or (PANEL * columns if columns > 1 else 0)),
        "fixed": bool(width),
        "wide": bool(width) or columns > 1 or name.startswith("forecast"),
        "height": height,
        "data": plot["data"],
        "layout": layout,
    }


def _top(traces: Sequence[Json], layout: Mapping[str, Any], given: int, note: str) -> int:
    """Margin above the panels, in pixels: what is left without the title, and less without a legend."""
    has_legend = layout.get("showlegend", True) and sum(bool(one.get("showlegend", True)) for one in traces) > 1
    if has_legend or layout.get("xaxis", {}).get("side") == "top":
        return max(24, given - TITLE_ROOM - (18 if note else 0))
    return 34 if layout.get("annotations") else 18


def _wrapped(axis: Json) -> Json:
    """An axis whose title, if it is long, takes two lines: below a narrow panel its ends would be cut off."""
    text = _text(axis.get("title"))
    if len(text) <= LONGEST_TITLE or "<br>" in text:
        return axis
    spaces = [place for place, letter in enumerate(text) if letter == " "]
    middle = min(spaces, key=lambda place: abs(place - len(text) / 2), default=len(text))
    title = axis["title"] if isinstance(axis["title"], Mapping) else {}
    return {**axis, "title": {**title, "text": f"{text[:middle]}<br>{text[middle + 1 :]}".removesuffix("<br>")}}


def _legend(legend: Mapping[str, Any]) -> Json:
    """The legend above the panels, growing upwards: beside them it takes the width that a phone has not."""
    below = (legend.get("y") or 1.0) < 0.5
    if below or legend.get("yref") == "container":
        return dict(legend)
    return {"x": 0, **legend, "orientation": "h", "y": max(1.02, legend.get("y") or 0.0), "yanchor": "bottom"}


def in_order(names: Sequence[str]) -> list[str]:
    """Names of plots in the order of the page: predictions, the learned model, the training, then others."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _text(title: Any) -> str:
    return str(title.get("text") or "") if isinstance(title, Mapping) else str(title or "")


def _columns(layout: Mapping[str, Any]) -> int:
    """Panels side by side: different places where x axes begin."""
    starts = {
        round(float((axis.get("domain") or [0.0])[0]), 3)
        for name, axis in layout.items()
        if name.startswith("xaxis") and isinstance(axis, Mapping)
    }
    return max(1, len(starts))


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
    layout = {
        "height": 110 + 36 * len(rows),
        "margin": {"l": 10, "r": 24, "t": 34, "b": 50},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "error / best baseline (left is better)"}, "zeroline": False},
        "yaxis": {"type": "category", "range": [len(rows) - 0.5, -0.5], "automargin": True, "ticksuffix": "  "},
        "shapes": [_upright(1.0)],
    }
    note = "exp RMSPE, RMSE or share of wrong answers of each model and baseline, in units of the best baseline's"
    return {
        **prepare({"data": data, "layout": layout}, "overview"),
        "title": "Against the baselines",
        "note": note,
        "wide": True,
    }


def _upright(x: float) -> Json:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


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
        "height": 260,
        "margin": {"l": 64, "r": 40, "t": 34, "b": 40},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": metric.label}},
    }
    return {
        **prepare({"data": data, "layout": layout}, "history"),
        "title": f"{metric.label}, run by run",
        "wide": True,
    }


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
        "height": 380,
        "margin": {"l": 64, "r": 24, "t": 34, "b": 40},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "yaxis": {"title": {"text": "predicted"}, "rangemode": "tozero"},
    }
    return {**prepare({"data": data, "layout": layout}, "forecast"), "title": "Forecast of the rows without a target"}
