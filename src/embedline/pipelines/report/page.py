"""Render the sections as one self-contained HTML file, which needs no network and no server."""

import json
import logging
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from embedline.errors import DataError, did_you_mean
from embedline.pipelines.report import plots
from embedline.pipelines.report.comparisons import Comparison, compare, headlines
from embedline.pipelines.report.metrics import format_number
from embedline.pipelines.report.options import PageOptions
from embedline.pipelines.report.sections import GENERATED, is_empty

logger = logging.getLogger(__name__)

Json = dict[str, Any]


def render(sections: Mapping[str, Json], options: PageOptions) -> str:
    """One self-contained HTML page.

    Args:
        sections: of :func:`.sections.collect`, by source.
        options: title, and which sources.

    Raises:
        DataError: if ``options.sources`` names an unknown source, or nothing at all is stored.
    """
    chosen = _choose(sections, options)
    shown = {name: _shown(section) for name, section in chosen.items() if not is_empty(section)}
    if not shown:
        raise DataError(f"nothing to report: no artifact is stored of {', '.join(chosen)}; run one of them first")
    absent = [name for name in chosen if name not in shown]
    if absent:
        logger.info("Not in the report, since nothing is stored of them: %s", ", ".join(absent))
    named = {
        f"{name}, {one.title}" if len(section["tiles"]) > 1 else name: one
        for name, section in shown.items()
        for one in section["tiles"]
    }
    summary = plots.overview(named)
    drawn: dict[str, Json] = {}
    for name, section in shown.items():
        for plot in [*section["history"], *section["plots"]]:
            plot["id"] = f"{name}-{plot['name']}"
            drawn[plot["id"]] = plot
    if summary:
        drawn["overview"] = summary | {"id": "overview"}
    newest = max((past["version"] for section in shown.values() for past in section["past"]), default="")
    logger.info("Report of %s: %d plots", ", ".join(shown), len(drawn))
    return _fill(
        title=options.title,
        sections=shown,
        absent=absent,
        overview=drawn.get("overview"),
        newest=moment(newest),
        generated=[name for name, section in shown.items() if section["origin"] == GENERATED],
        plots=_embedded({name: {key: one[key] for key in ("data", "layout")} for name, one in drawn.items()}),
    )


def _choose(sections: Mapping[str, Json], options: PageOptions) -> dict[str, Json]:
    for name in options.sources or ():
        if name not in sections:
            raise DataError(f"report.sources names {name!r}, which no pipeline makes{did_you_mean(name, sections)}")
    return {name: sections[name] for name in (sections if options.sources is None else options.sources)}


def _shown(section: Json) -> Json:
    """A section with the values of the template: comparisons, rows of earlier runs, and their plots."""
    comparisons = compare(section["metrics"] or {})
    history: list[Json] = []
    runs: list[Json] = []
    if comparisons:
        history, runs = _runs(section["past"], comparisons)
    tables = [_result_table(one) for one in comparisons]
    return {**section, "plots": [dict(plot) for plot in section["plots"]], "comparisons": comparisons} | {
        "tiles": [one for one in headlines(comparisons) if one.main],
        "results": tables,
        "history": history,
        "runs": runs,
        "updated": moment(section["past"][-1]["version"]) if section["past"] else "",
    }


def moment(version: str) -> str:
    """A version as date and time: ``2026-11-22T14.04.53.346Z`` is ``2026-11-22 14:04 UTC``; another name as it is."""
    day, _, time = version.partition("T")
    parts = time.split(".")
    return f"{day} {parts[0]}:{parts[1]} UTC" if len(parts) >= 3 and parts[0].isdigit() else version


def _result_table(one: Comparison) -> Json:
    """A row a contestant, the best value of each metric marked."""
    everyone = [one.model, *one.others, *one.baselines]
    rows: list[Json] = [
        {
            "label": who.label,
            "ours": who is one.model,
            "interval": tuple(map(format_number, who.interval)) if who.interval else None,
            "cells": [],
        }
        for who in everyone
    ]
    for metric in one.metrics:
        values = [who.values.get(metric.name) for who in everyone]
        best = min((value for value in values if value is not None), key=metric.error)
        for row, value in zip(rows, values, strict=True):
            row["cells"].append({"text": "" if value is None else format_number(value), "best": value == best})
    several = len(rows) > 1
    if one.ceiling:  # no contestant: its cells are never the best ones
        bounds = [one.ceiling.get(metric.name) for metric in one.metrics]
        cells = [{"text": "" if best is None else format_number(best), "best": False} for best in bounds]
        rows.append({"label": "the best that a model can expect", "ours": False, "interval": None, "cells": cells})
    notes = [f"{metric.label}: {metric.note}" for metric in one.metrics if metric.note]
    return {"title": one.title, "metrics": one.metrics, "rows": rows, "facts": [*one.facts, *notes], "several": several}


def _runs(past: Sequence[Json], newest: Sequence[Comparison]) -> tuple[list[Json], list[Json]]:
    """Plots of the main metrics over the versions if there are several, and a row a version, newest first.

    Args:
        newest: comparisons of the newest version, with their intervals, which earlier ones lack.
    """
    compared = [(version, compare(version["metrics"])) for version in past]
    drawn = []
    for place in range(len(newest) if len(past) > 1 else 0):
        ours, best, metric, title = [], [], None, ""
        for version, comparisons in compared:
            one = comparisons[place] if place < len(comparisons) else None
            if one is None or one.main is None:
                continue
            metric, title = one.main, one.title
            label = moment(version["version"]).removesuffix(" UTC")
            ours.append((label, one.model.values[metric.name]))
            if one.best_baseline:
                best.append((label, one.best_baseline.values[metric.name]))
        if metric and len(ours) > 1:
            plot = plots.history(metric, ours, best) | {"name": f"history-{place}"}
            drawn.append(plot | {"title": ": ".join(text for text in (title, plot["title"]) if text)})
    rows = []
    for place, (version, comparisons) in enumerate(compared):
        earlier = compared[place - 1][1] if place else []
        rows.append(
            {
                "moment": moment(version["version"]),
                "values": [
                    _change(one, earlier, k, newest[k].chance if k < len(newest) else 0.0)
                    for k, one in enumerate(comparisons)
                ],
                "changes": version["changes"],
            }
        )
    return drawn, rows[::-1]


def _change(one: Comparison, earlier: Sequence[Comparison], place: int, chance: float) -> Json:
    """The main metric of a run, and whether it is better than in the run before by more than chance may do."""
    main = one.main
    assert main is not None
    value = one.model.values[main.name]
    found = {
        "label": " ".join(text for text in (one.title, main.label) if text),
        "value": format_number(value),
        "trend": "",
    }
    before = earlier[place].model.values.get(main.name) if place < len(earlier) else None
    if before is not None and abs(before - value) > chance:
        found["trend"] = "better" if main.better(value, before) else "worse"
    return found


def _embedded(values: Json) -> str:
    """JSON for a script element: nothing in it may end the element, and NaN becomes null."""
    text = json.dumps(_finite(values), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _fill(**values: Any) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    folder = files("embedline.pipelines.report") / "templates"
    templates = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(templates["page.html"])
    values["plots"] = Markup(values["plots"])  # JSON without a "<"
    inline = {
        "style": Markup(templates["page.css"]),
        "script": Markup(templates["page.js"]),
        "plotly": Markup(get_plotlyjs()),
    }
    return template.render(**values, **inline, format_number=format_number)
