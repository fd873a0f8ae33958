"""The section of one source as JSON values: its metrics, earlier runs, plots and tables."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from embedline.pipelines.report import plots, tables
from embedline.pipelines.report.metrics import metric_values
from embedline.redaction import redacted

logger = logging.getLogger(__name__)

Json = dict[str, Any]

GENERATED = "generated"
MOST_CHANGES = 6  # of one run, named; the others are counted


def collect(artifacts: Mapping[str, Any], origin: str | None = None) -> Json:
    """Collect the stored artifacts of one source.

    Args:
        artifacts: by name (``metrics``, ``metrics_history``, ``…_plot``, those of :data:`.tables.
            TABLES`, ``forecast``); None for a missing one.
        origin: where the raw data come from, as the parameters say; ``generated`` for the project's own generator.

    Returns:
        ``origin``, ``metrics`` (null without), ``past`` (a row a version, oldest first), ``plots`` and
        ``tables`` in the order of the page.

    Raises:
        DataError: if a plot is no Plotly figure.
    """
    stored = {name: artifact for name, artifact in artifacts.items() if artifact is not None}
    names = plots.in_order([name for name in stored if name.endswith("_plot")])
    shown = [plots.prepare(_as_json(stored[name]), name) for name in names]
    if "forecast" in stored and (days := tables.daily(stored["forecast"])):
        shown.insert(0, plots.forecast(*days))
    section = {
        "origin": _shown_origin(origin),
        "metrics": stored.get("metrics"),
        "past": [_past(version) for version in stored.get("metrics_history", [])],
        "plots": shown,
        "tables": [make(stored[name]) for name, make in tables.TABLES.items() if name in stored],
    }
    logger.info("%d of %d artifacts are stored", len(stored), len(artifacts))
    return section


def is_empty(section: Json) -> bool:
    """Whether nothing of the source is stored."""
    return not any(section[name] for name in ("metrics", "plots", "tables"))


def _as_json(plot: Any) -> Any:
    """A Plotly figure as its JSON; anything else as it is, for :func:`plots.prepare` to refuse."""
    return json.loads(plot.to_json()) if hasattr(plot, "to_json") else plot


def _shown_origin(origin: str | None) -> str | None:
    """An address without its secrets, or the last component of a path: reports are shared with others."""
    return redacted(origin) if origin is None or "://" in origin else PurePath(origin).name


def _past(version: Mapping[str, Any]) -> Json:
    changes = version["changes"]
    if changes is not None:
        changes = _in_short(redacted(changes))
    return {"version": version["version"], "metrics": _known_values(version["metrics"]), "changes": changes}


def _known_values(metrics: Mapping[str, Any]) -> Json:
    """The known metrics alone, nested as in the metrics file."""
    inner = {name: _known_values(value) for name, value in metrics.items() if isinstance(value, Mapping)}
    return metric_values(metrics) | {name: value for name, value in inner.items() if value}


def _in_short(changes: Sequence[str]) -> list[str]:
    """The changes of parameters, files and libraries by name, those of code, inputs and the catalog by number."""
    named = [text for text in changes if text.startswith(("parameter ", "content ", "library "))]
    code = sum(text.startswith("code ") for text in changes)
    inputs = [text for text in changes if text.startswith("input ")]
    shown = [text.removeprefix("parameter ") for text in named[:MOST_CHANGES]] + inputs[:2]
    if len(named) > MOST_CHANGES:
        shown.append(f"{len(named) - MOST_CHANGES} other settings changed")
    if code:
        shown.append(f"code of {code} definition{'s' if code > 1 else ''} changed")
    return shown
