"""Stored frames as tables of the page: a few informative rows, every cell a text."""

from collections.abc import Callable, Mapping
from typing import Any

import narwhals as nw

from embedline.pipelines.report.metrics import format_number

Json = dict[str, Any]

USERS = 4  # whose recommendations are shown
ITEMS = 8  # whose neighbours are shown
BEST = 5  # recommendations or neighbours of each
MISTAKES = 8
LEAST_SHARE = 0.005  # of a next word that is shown: less is 0 %
FIELDS = {
    "document_id": "document",
    "image_id": "picture",
    "mean_log_probability": "mean log probability",
    "n_ratings": "ratings",
}


def table(frame: Any, title: str, note: str = "", *, drop: tuple[str, ...] = ()) -> Json:
    """A frame of any backend as ``title``, ``note``, ``columns`` (``label``, ``numeric``) and ``rows`` of texts."""
    data = nw.from_native(frame, eager_only=True)
    names = [name for name in data.columns if name not in drop]
    columns = [
        {"label": FIELDS.get(name, name.replace("_", " ")), "numeric": data.schema[name].is_numeric()} for name in names
    ]
    rows = [[_cell(value) for value in row] for row in data.select(names).iter_rows()]
    return {"title": title, "note": note, "columns": columns, "rows": rows}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return format_number(value, 3) if isinstance(value, float) else str(value)


def mistakes(frame: Any) -> Json:
    """The most confident mistakes: one row a document, the text last."""
    data = nw.from_native(frame, eager_only=True)
    title, note = "The surest mistakes", f"{min(MISTAKES, len(data))} of {len(data)} listed, surest first"
    return table(data.head(MISTAKES).to_native(), title, note)


def samples(frame: Any) -> Json:
    """Texts that the language model generated."""
    title, drop = "What the language model writes", ("tokens", "mean_log_probability", "sample")
    return table(frame, title, "the prompt, and how it went on", drop=drop)


def next_words(frame: Any) -> Json:
    """The most probable next words, one row a prompt."""
    data = nw.from_native(frame, eager_only=True).sort("prompt", "rank")
    words: dict[str, list[str]] = {}
    for row in data.filter(nw.col("probability") >= LEAST_SHARE).iter_rows(named=True):
        words.setdefault(row["prompt"], []).append(f"{row['word']} {row['probability']:.0%}".replace("%", " %"))
    rows = [[prompt, ", ".join(prompt_words)] for prompt, prompt_words in words.items()]
    columns = [{"label": name, "numeric": False} for name in ("prompt", "next word, with its probability")]
    return {"title": "Most probable next words", "note": "", "columns": columns, "rows": rows}


def recommendations(frame: Any) -> Json:
    """The best items of a few users, one column a user; behind each the predicted rating, or the score without one."""
    data = nw.from_native(frame, eager_only=True)
    shown = "predicted" if "predicted" in data.columns else "score"
    users = data["user"].unique(maintain_order=True).head(USERS).to_list()
    lists = []
    for user in users:
        rows = data.filter(nw.col("user") == user).sort("rank").head(BEST).iter_rows(named=True)
        lists.append([f"{row.get('title') or row['item']} ({row[shown]:.2f})" for row in rows])
    depth = max((len(items) for items in lists), default=0)
    ranks = [[str(rank + 1), *(items[rank] if rank < len(items) else "" for items in lists)] for rank in range(depth)]
    columns = [{"label": "rank", "numeric": True}, *({"label": f"user {user}", "numeric": False} for user in users)]
    behind = "the predicted rating" if shown == "predicted" else "the score that ranks them"
    note = f"with {behind}; the first {len(users)} of {data['user'].n_unique():,} users"
    return {"title": "Recommendations", "note": note, "columns": columns, "rows": ranks}


def neighbours(frame: Any) -> Json:
    """The nearest neighbours of a few items by the learned factors."""
    data = nw.from_native(frame, eager_only=True)
    rows = []
    for item in data["item"].unique(maintain_order=True).to_list()[: 40 * ITEMS : 40]:
        found = list(data.filter(nw.col("item") == item).sort("rank").head(BEST - 2).iter_rows(named=True))
        near = ", ".join(f"{row.get('neighbour_title') or row['neighbour']} ({row['cosine']:.2f})" for row in found)
        rows.append([str(found[0].get("title") or item), near])
    columns = [{"label": name, "numeric": False} for name in ("item", "nearest, with the cosine")]
    return {"title": "Alike by what was learned", "note": "a few items", "columns": columns, "rows": rows}


def folds(values: Mapping[str, Any]) -> Json:
    """Cross-validation: one row a fold, and the mean."""
    names = [name for name in ("rmse", "mse", "mae") if f"mean_{name}" in values]
    rivals = [name for name in (values.get("baselines") or {}) if "mean_rmse" in values["baselines"][name]]
    rows = []
    for fold in values["folds"]:
        rival_values = (fold["baselines"][name]["rmse"] for name in rivals)
        rows.append(
            [str(fold["value"]), *(format_number(fold[name]) for name in names), *map(format_number, rival_values)]
        )
    means = [*(values[f"mean_{name}"] for name in names), *(values["baselines"][name]["mean_rmse"] for name in rivals)]
    rows.append(["mean", *map(format_number, means)])
    labels = ["fold", *map(str.upper, names), *(f"RMSE, {name.replace('_', ' ')}" for name in rivals)]
    columns = [{"label": label, "numeric": bool(place)} for place, label in enumerate(labels)]
    return {"title": "Cross-validation", "note": "a model of its own for each fold", "columns": columns, "rows": rows}


TABLES: dict[str, Callable[[Any], Json]] = {  # by the name of the artifact, in the order of the page
    "mistakes": mistakes,
    "samples": samples,
    "next_words": next_words,
    "recommendations": recommendations,
    "neighbours": neighbours,
    "folds": folds,
}


def daily(frame: Any) -> tuple[list[str], list[float], list[float], list[float]] | None:
    """Days, and the mean, 10 % and 90 % quantiles of ``predicted``, of a forecast; None without a date column."""
    data = nw.from_native(frame, eager_only=True)
    dates = [name for name, dtype in data.schema.items() if dtype in (nw.Date, nw.Datetime)]
    if not dates or "predicted" not in data.columns or not data.schema["predicted"].is_numeric():
        return None
    days: dict[str, list[float]] = {}
    for day, value in data.select(dates[0], "predicted").sort(dates[0]).iter_rows():
        days.setdefault(day.isoformat()[:10], []).append(value)
    by_day = [nw.new_series("predicted", values, nw.Float64, backend=data.implementation) for values in days.values()]
    quantiles = [[float(one.quantile(q, "linear")) for one in by_day] for q in (0.1, 0.9)]
    return list(days), [float(one.mean()) for one in by_day], quantiles[0], quantiles[1]
