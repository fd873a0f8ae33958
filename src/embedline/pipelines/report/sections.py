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
        artifacts: by name (``metrics`` or, without a classifier, ``language_model_metrics``; ``metrics_history``,
            ``…_plot``, those of :data:`.tables.TABLES`, ``forecast``); None for a missing one.
        origin: where the raw data come from, as the parameters say; ``generated`` for the project's own generator.

    Returns:
        ``origin``, ``metrics`` (null without), ``past`` (a row a version, oldest first), ``plots`` and
        ``tables`` in the order of the page.

    Raises:
        DataError: if a plot is no Plotly figure.
    """
    stored = {name: artifact for name, artifact in artifacts.items() if artifact is not None}
    names = plots.in_order([name for name in stored if name.endswith("_plot")])
    figures = {name: stored[name] for name in names}
    drawn = {name: json.loads(one.to_json()) if hasattr(one, "to_json") else one for name, one in figures.items()}
    prepared = (plots.prepare(plot, name) for name, plot in drawn.items())
    shown = [one for one in prepared if one["data"] or one["layout"].get("images")]  # no empty charts
    if "forecast" in stored and (days := tables.daily(stored["forecast"])):
        shown.insert(0, plots.forecast(*days))
    if origin is not None:  # reports are shared with others: no secrets of an address, no folders of a path
        origin = redacted(origin) if "://" in origin else PurePath(origin).name
    section = {
        "origin": origin,
        "metrics": stored.get("metrics", stored.get("language_model_metrics")),
        "past": [
            {
                "version": version["version"],
                "metrics": _known_values(version["metrics"]),
                "changes": None if version["changes"] is None else _in_short(redacted(version["changes"])),
            }
            for version in stored.get("metrics_history", [])
        ],
        "plots": shown,
        "tables": [make(stored[name]) for name, make in tables.TABLES.items() if name in stored],
    }
    logger.info("%d of %d artifacts are stored", len(stored), len(artifacts))
    return section


def is_empty(section: Json) -> bool:
    """Whether nothing of the source is stored."""
    return not any(section[name] for name in ("metrics", "plots", "tables"))


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
