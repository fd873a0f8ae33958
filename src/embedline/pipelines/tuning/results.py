"""What a search found: the table of its trials, ``tuned.yml`` and the plot."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import yaml
from plotly.subplots import make_subplots
from scipy.stats import t as student

from embedline.pipelines.tuning.options import Dimension
from embedline.pipelines.tuning.space import Settings, current_value, put_in
from embedline.pipelines.tuning.study import TrialRecord
from embedline.training.plots import ACCENT, LAYOUT, MUTED, SECOND

COLUMNS = {
    "number": pl.Int64,
    "state": pl.String,
    "default": pl.Boolean,
    "loss": pl.Float64,
    "std": pl.Float64,
    "repetitions": pl.Int64,
    "seconds": pl.Float64,
    "reason": pl.String,
}
PER_ROW = 3  # panels of settings beside each other


def trials_frame(
    records: Sequence[TrialRecord], settings: Settings, dimensions: Mapping[str, Dimension]
) -> pl.DataFrame:
    """A row a trial: :data:`COLUMNS`, and a column for each setting of the space.

    ``loss`` and ``std`` are of the ``repetitions`` that the trial went through; of a pruned one not all. A setting of
    choices has texts: strings as they are, others as JSON.
    """
    columns: dict[str, pl.Series] = {
        name: pl.Series(name, [_cell(record, name) for record in records], dtype) for name, dtype in COLUMNS.items()
    }
    for name, dimension in dimensions.items():
        values = [_value(record, settings, name) for record in records]
        if dimension.choices is not None:
            texts = [one if one is None or isinstance(one, str) else json.dumps(one) for one in values]
            columns[name] = pl.Series(name, texts, pl.String)
        else:
            numbers = [one if isinstance(one, int | float) else None for one in values]
            columns[name] = pl.Series(name, numbers, pl.Int64 if dimension.is_whole else pl.Float64, strict=False)
    return pl.DataFrame(list(columns.values()))


def _cell(record: TrialRecord, name: str) -> Any:
    return len(record.losses) if name == "repetitions" else getattr(record, name)


def _value(record: TrialRecord, settings: Settings, name: str) -> Any:
    return current_value(settings, name) if record.default else record.values.get(name)


def best_of(records: Sequence[TrialRecord]) -> TrialRecord:
    """The complete trial of the lowest loss, of equals the first."""
    complete = [record for record in records if record.state == "complete"]
    return min(complete, key=lambda record: (record.loss, record.number))


def tuned_yaml(records: Sequence[TrialRecord], settings: Settings, source: str, loss: str) -> str:
    """The blocks of settings that the best trial changes, as YAML to put in place of those under ``source``.

    A comment says what the trial lost, and whether that can be told from the loss of the untuned settings.
    """
    best = best_of(records)
    chosen = {} if best.default else dict(best.values)
    changed = put_in(settings, chosen)
    counts = {state: sum(record.state == state for record in records) for state in ("complete", "pruned", "failed")}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    lines = [
        f"Put these blocks in place of those under {source} in the parameters.",
        f"Best of {sum(counts.values())} trials ({told}): number {best.number}, {loss} {_spread(best)} on inner rows.",
        *_verdict(records, best, loss),
        *(f"  {name}: {_short(value)}, was {old}" for name, value, old in _changes(chosen, settings)),
    ]
    blocks = {name.split(".")[0]: changed[name.split(".")[0]] for name, _, _ in _changes(chosen, settings)}
    values = {name: block.model_dump(mode="json", exclude_unset=True) for name, block in blocks.items()}
    text = (
        yaml.safe_dump({source: values}, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
        if values
        else ""
    )
    return "".join(f"# {line}\n" for line in lines) + text


def _changes(chosen: Mapping[str, Any], settings: Settings) -> list[tuple[str, Any, str]]:
    olds = {name: _short(current_value(settings, name)) for name in chosen}
    return [(name, value, olds[name]) for name, value in chosen.items() if _short(value) != olds[name]]


def _verdict(records: Sequence[TrialRecord], best: TrialRecord, loss: str) -> list[str]:
    default = next((one for one in records if one.default and one.state == "complete"), None)
    if default is None:
        failed = next(one for one in records if one.default and one.state != "interrupted")
        return [f"The untuned settings have no {loss}: {failed.reason}"]
    if best.default:
        return ["These are the untuned settings: no trial was better, and nothing is to be changed."]
    lines = [f"Untuned: {loss} {_spread(default)}."]
    differences = np.subtract(best.losses, default.losses)
    mean = float(differences.mean())
    if len(differences) < 2:
        lines.append(f"Difference {mean:+.5f}, of one repetition: whether it is chance cannot be told.")
        return [*lines, "More tune.seeds, or more inner windows or folds, would tell."]
    half = float(student.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / math.sqrt(len(differences)))
    interval = f"95 % interval {mean - half:+.5f} to {mean + half:+.5f}"
    lines.append(f"Difference {mean:+.5f}, {interval}, paired over {len(differences)} repetitions.")
    lines.append("The best of many trials looks better than it is: measure it on the held-out rows.")
    if mean + half >= 0.0:
        lines.append("The best trial is NOT distinguishable from the untuned settings.")
    return lines


def _spread(record: TrialRecord) -> str:
    return f"{record.loss:.5f}" + (f" (standard deviation {record.std:.5f})" if record.std is not None else "")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, default=str)


def plot_trials(trials: pl.DataFrame, dimensions: Mapping[str, Dimension], title: str) -> go.Figure:
    """Loss by trial (:func:`trials_frame`) with its spread, and the best so far; below, against each setting."""
    n_rows = math.ceil(len(dimensions) / PER_ROW)
    figure = make_subplots(
        rows=1 + n_rows,
        cols=PER_ROW,
        specs=[[{"colspan": PER_ROW}, *[None] * (PER_ROW - 1)], *[[{}] * PER_ROW for _ in range(n_rows)]],
        horizontal_spacing=0.08,
    )
    shown = trials.filter(pl.col("loss").is_not_null())
    groups = {
        "untuned": (shown.filter(pl.col("default")), SECOND),
        "tried": (shown.filter(~pl.col("default") & (pl.col("state") == "complete")), ACCENT),
        "pruned": (shown.filter(~pl.col("default") & (pl.col("state") == "pruned")), MUTED),
    }
    for name, (rows, colour) in groups.items():
        points = {"mode": "markers", "marker": {"color": colour, "size": 8}, "name": name, "legendgroup": name}
        spread = {"type": "data", "array": rows["std"].fill_null(0.0).to_list(), "color": colour}
        figure.add_scatter(x=rows["number"], y=rows["loss"], error_y=spread, **points, row=1, col=1)
        for place, setting in enumerate(dimensions):
            at = {"row": 2 + place // PER_ROW, "col": 1 + place % PER_ROW}
            figure.add_scatter(x=rows[setting], y=rows["loss"], **points, showlegend=False, **at)
    complete = shown.filter(pl.col("state") == "complete")
    style = {"mode": "lines", "line": {"color": ACCENT, "shape": "hv", "dash": "dot"}, "name": "best so far"}
    figure.add_scatter(x=complete["number"], y=complete["loss"].cum_min(), **style, row=1, col=1)
    figure.update_xaxes(title="trial", row=1, col=1)
    for place, (setting, dimension) in enumerate(dimensions.items()):
        kind = "category" if dimension.choices is not None else "log" if dimension.log else "linear"
        figure.update_xaxes(title=setting, type=kind, row=2 + place // PER_ROW, col=1 + place % PER_ROW)
    figure.update_yaxes(title="loss", col=1)
    return figure.update_layout(title=title, height=360 + 260 * n_rows, **LAYOUT)
