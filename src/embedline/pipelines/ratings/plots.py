"""Plots of a ratings model, drawn by Plotly from the artifacts of the pipeline: its training, errors and items."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from embedline.pipelines.ratings.options import RatingReport
from embedline.pipelines.ratings.ranking_metrics import COUNT_LABELS, count_class
from embedline.training.plots import ACCENT, INK, LAYOUT, MUTED, SECOND

FEWEST_IN_CLASS = 20  # held-out ratings; an error of fewer is mostly chance
LEGEND = {"y": 1.13}  # above the panels' names
MODELS = {"predicted": ("model", ACCENT), "damped_bias": ("damped biases", SECOND)}
WAYS = {  # of predicting a new item's rating, as the report names them
    "features": "model:<br>features",
    "no_features": "model:<br>no features",
    "features_and_average": "model: features<br>+ average item",
    "user_mean": "mean rating<br>of the user",
    "damped_bias": "damped<br>biases",
}
LONGEST_TITLE = 42  # characters of a title in a plot
TASTE = [[0.0, "#f3b27a"], [0.5, "#f7f7f7"], [1.0, "#8fb4f5"]]  # low, middling and high ratings, pale under black ink
LETTER, LINE = 6.4, 15.0  # width of a letter and height of a line of the map's labels, pixels
MAP_WIDTH, MAP_HEIGHT = 1180, 850  # pixels
MAP_MARGIN = {"l": 48, "r": 132, "t": 34, "b": 48}  # pixels
MAP_ROOM = 0.11  # beside the outermost points, for their labels: share of the points' spread
PASSES = 4  # over all labels of the map
# Where a label may stand: name of the place, and its centre from the point in half widths, half heights, and pixels.
PLACES = {
    "top center": (0.0, 1.0, 0.0, 6.0),
    "bottom center": (0.0, -1.0, 0.0, -6.0),
    "middle right": (1.0, 0.0, 7.0, 0.0),
    "middle left": (-1.0, 0.0, -7.0, 0.0),
    "top right": (1.0, 1.0, 4.0, 3.0),
    "bottom right": (1.0, -1.0, 4.0, -3.0),
    "top left": (-1.0, 1.0, -4.0, 3.0),
    "bottom left": (-1.0, -1.0, -4.0, -3.0),
}


def plot_training(history: pl.DataFrame, title: str) -> go.Figure:
    """Training loss of each member, the squared error of the held-out ratings by epoch, and the learning rate below."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.08)
    several = history["member"].n_unique() > 1
    held_name = "held-out mean squared error" + (" (each member)" if several else "")
    held = {"name": held_name, "mode": "lines+markers", "line": {"color": SECOND}, "legendgroup": "held"}
    loss = {"name": "training loss", "line": {"color": ACCENT, "width": 1.2}, "legendgroup": "loss"}
    for member, records in history.group_by("member", maintain_order=True):
        shared = {"showlegend": member[0] == 0, "row": 1, "col": 1}
        opacity = 0.5 if several else 1.0
        figure.add_scatter(x=records["epoch"], y=records["train_loss"], opacity=opacity, **loss, **shared)
        if "mse" in history.columns:
            epochs = records.filter(pl.col("mse").is_not_null())
            figure.add_scatter(x=epochs["epoch"], y=epochs["mse"], **held, **shared)
    rates = history.filter(pl.col("member") == 0)
    figure.add_scatter(x=rates["epoch"], y=rates["lr"], line={"color": MUTED}, showlegend=False, row=2, col=1)
    figure.update_yaxes(title_text="squared rating units", row=1, col=1)
    figure.update_yaxes(title_text="learning rate", exponentformat="power", row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_layout(title=title, height=490, **LAYOUT)


def plot_error(predictions: pl.DataFrame, title: str) -> go.Figure:
    """Error by the number of training ratings of the user and of the item, and the mean prediction by actual rating.

    ``predictions`` are those of :func:`.evaluation.predict_held_out`.
    """
    names = ["by the user's training ratings", "by the item's training ratings", "by the actual rating"]
    figure = make_subplots(rows=1, cols=3, subplot_titles=names, horizontal_spacing=0.07)

    def add_models(points: pl.DataFrame, x: str, hover: str, col: int) -> None:
        for place, (column, (label, colour)) in enumerate(MODELS.items()):
            figure.add_scatter(
                x=points[x],
                y=points[column],
                name=label,
                mode="lines+markers",
                line={"color": colour, "dash": "dot" if place else "solid"},
                legendgroup=column,
                showlegend=col == 1,
                customdata=points["rows"],
                hovertemplate=f"{label}: {hover} over %{{customdata:,}} ratings<extra></extra>",
                row=1,
                col=col,
            )

    for col, name in enumerate(("user_ratings", "item_ratings"), start=1):
        add_models(count_classes(predictions, name), "label", "%{y:.3f}", col)
        figure.update_xaxes(title_text="training ratings", type="category", tickangle=-35, row=1, col=col)
    levels = predictions.with_columns(pl.col("actual").round(1)).group_by("actual", maintain_order=True)
    means = levels.agg(pl.col(*MODELS).mean(), pl.len().alias("rows")).sort("actual")
    diagonal = {"mode": "lines", "line": {"color": MUTED, "width": 1}, "name": "prediction = rating"}
    figure.add_scatter(x=means["actual"], y=means["actual"], row=1, col=3, **diagonal)
    add_models(means, "actual", "mean %{y:.2f}", 3)
    figure.update_yaxes(title_text="root mean squared error", row=1, col=1)
    figure.update_yaxes(matches="y", row=1, col=2)
    figure.update_yaxes(title_text="mean prediction", row=1, col=3)
    figure.update_xaxes(title_text="actual rating", row=1, col=3)
    return figure.update_layout(title=title, height=430, legend=LEGEND, **LAYOUT)


def count_classes(predictions: pl.DataFrame, name: str) -> pl.DataFrame:
    """Root mean squared errors by classes of the counts in the column ``name``.

    Columns ``label``, such as ``5-9``, ``rows``, and an error for each of :data:`MODELS`; classes of fewer than
    :data:`FEWEST_IN_CLASS` rows are left out, unless all are.
    """
    place = count_class(predictions[name].to_numpy())
    classes = (
        predictions.with_columns(place=place)
        .group_by("place", maintain_order=True)  # else sums are taken in parallel, in any order
        .agg(pl.len().alias("rows"), (pl.col(*MODELS) - pl.col("actual")).pow(2).mean().sqrt())
        .sort("place")
        .with_columns(label=pl.col("place").map_elements(COUNT_LABELS.__getitem__, return_dtype=pl.String))
    )
    enough = classes.filter(pl.col("rows") >= FEWEST_IN_CLASS)
    return enough if len(enough) else classes


def plot_cold_start(cold_start: dict[str, Any], title: str) -> go.Figure:
    """Errors on new users by the number of their known ratings, and on new items by the vectors used for them.

    ``cold_start`` is that of :func:`.cold_start.measure_cold_start`.
    """
    of_users, of_items = cold_start["new_users"], cold_start["new_items"]
    names = [
        f"new users: {of_users['users']:,} users, {of_users['rows']:,} ratings",
        f"new items: {of_items['items']:,} items, {of_items['rows']:,} ratings",
    ]
    figure = make_subplots(rows=1, cols=2, subplot_titles=names, horizontal_spacing=0.12)
    given = of_users["given"]
    for name, numbers, colour, dash in (
        ("model, folded in", list(given.values()), ACCENT, "solid"),
        ("damped biases", [one["baselines"]["damped_bias"] for one in given.values()], SECOND, "dot"),
    ):
        style = {"name": name, "mode": "lines+markers", "line": {"color": colour, "dash": dash}}
        figure.add_scatter(x=list(given), y=[one["rmse"] for one in numbers], row=1, col=1, **style)
    main, baselines = "features" if "no_features" in of_items else "no_features", of_items["baselines"]
    dots = {main: of_items, **{name: of_items[name] for name in WAYS if name in of_items}, **baselines}
    colours = [SECOND if name in baselines else ACCENT for name in dots]
    symbols = ["circle" if name in (main, *baselines) else "circle-open" for name in dots]
    values = [one["rmse"] for one in dots.values()]
    figure.add_scatter(
        x=[WAYS[name] for name in dots],
        y=values,
        mode="markers+text",
        marker={"color": colours, "symbol": symbols, "size": 13, "line": {"width": 2, "color": colours}},
        text=[f"{value:.3f}" for value in values],
        textposition="top center",
        cliponaxis=False,
        showlegend=False,
        hovertemplate="%{y:.4f}<extra></extra>",
        row=1,
        col=2,
    )
    room = 0.25 * max(max(values) - min(values), 1e-3)
    span = [min(values) - room, max(values) + room]
    figure.update_xaxes(type="category", title_text="ratings given of each new user", row=1, col=1)
    figure.update_yaxes(title_text="root mean squared error", row=1, col=1)
    figure.update_yaxes(title_text="root mean squared error", range=span, row=1, col=2)
    return figure.update_layout(title=title, height=430, legend=LEGEND, **LAYOUT)


def plot_bias(biases: pl.DataFrame, report: RatingReport, title: str) -> go.Figure:
    """Bars of the highest and of the lowest biases; whiskers are the deviation between the members.

    ``biases`` are those of :func:`.item_analysis.item_biases`, without items of fewer than ``report.min_ratings``
    ratings.
    """
    rows = biases.filter(pl.col("n_ratings") >= report.min_ratings).sort("bias", descending=True)
    n = min(report.biases, (len(rows) + 1) // 2)
    shown = pl.concat([rows.head(n), rows.tail(min(n, len(rows) - n))])
    several = bool((shown["deviation"] > 0).any())
    labels = _unique(short_titles(shown["title"].to_list()))
    figure = go.Figure(
        go.Bar(
            x=shown["bias"],
            y=labels,
            orientation="h",
            error_x={"type": "data", "array": shown["deviation"].to_list(), "color": MUTED} if several else None,
            marker_color=[ACCENT if value >= 0 else SECOND for value in shown["bias"]],
            customdata=shown.select("title", "n_ratings", "mean_rating").rows(),
            hovertemplate="%{customdata[0]}: bias %{x:+.2f}<br>%{customdata[1]} ratings, mean %{customdata[2]:.2f}"
            "<extra></extra>",
        )
    )
    if len(shown) > n:
        figure.add_hline(y=n - 0.5, line={"color": MUTED, "dash": "dot", "width": 1})
    named = f"items with at least {report.min_ratings} ratings" if report.min_ratings > 1 else "all items"
    label = "item bias: how far above<br>or below the average item"
    figure.update_xaxes(title_text=label, zeroline=True, tickformat="+")
    figure.update_yaxes(type="category", automargin=True, autorange="reversed", ticksuffix=" ")
    note = f"the {n} highest and {len(shown) - n} lowest of {len(rows):,} ({named})"
    return figure.update_layout(title=_titled(title, note), height=120 + 21 * len(shown), **LAYOUT)


def plot_map(points: pl.DataFrame, title: str) -> go.Figure:
    """Items by the two main components of their factors (:func:`.item_analysis.item_map`), with titles.

    The colour is their bias, the size their ratings.
    """
    labels = short_titles(points["title"].to_list(), 34)
    xy = points.select("x", "y").to_numpy()
    room = MAP_ROOM * np.maximum(np.ptp(xy, axis=0), 1e-9)
    low, high = xy.min(axis=0) - room, xy.max(axis=0) + room
    area = np.array([MAP_WIDTH - MAP_MARGIN["l"] - MAP_MARGIN["r"], MAP_HEIGHT - MAP_MARGIN["t"] - MAP_MARGIN["b"]])
    spread = float(np.abs(points["bias"].to_numpy()).max(initial=0.0)) or 1.0
    counts = points["n_ratings"].to_numpy()
    figure = go.Figure(
        go.Scatter(
            x=points["x"],
            y=points["y"],
            text=labels,
            mode="markers+text",
            textposition=place_labels((xy - low) / (high - low) * area, labels, *area),
            textfont={"size": 11},
            cliponaxis=False,
            marker={
                "size": 6 + 10 * counts / max(1, counts.max(initial=1)),
                "color": points["bias"],
                "colorscale": [[0.0, SECOND], [0.5, "#d5dae1"], [1.0, ACCENT]],
                "cmin": -spread,
                "cmax": spread,
                "colorbar": {"title": {"text": "item bias"}, "len": 0.4, "thickness": 12, "tickformat": "+.1f"},
                "line": {"color": "white", "width": 1},
            },
            customdata=points.select("title", "n_ratings", "bias").rows(),
            hovertemplate="%{customdata[0]}<br>%{customdata[1]} ratings, bias %{customdata[2]:+.2f}<extra></extra>",
        )
    )
    plain = {"zeroline": False, "showticklabels": False}
    figure.update_xaxes(title_text="first component", range=[low[0], high[0]], **plain)
    figure.update_yaxes(title_text="second component", range=[low[1], high[1]], **plain)
    text = _titled(title, "near each other: liked by the same people; larger: rated more often")
    size = {"width": MAP_WIDTH, "height": MAP_HEIGHT, "margin": MAP_MARGIN}
    return figure.update_layout(title=text, showlegend=False, **LAYOUT, **size)


def plot_crosstab(cells: pl.DataFrame, title: str) -> go.Figure:
    """The most active users by the most rated items: ratings in black, predictions of what was not rated in grey.

    ``cells`` are those of :func:`.item_analysis.crosstab`.
    """
    users = cells["user"].cast(pl.String).unique(maintain_order=True).to_list()
    shape = len(users), len(cells) // len(users)
    titles = _unique(short_titles(cells["title"].head(shape[1]).to_list(), 34))
    rated, guessed, held_out = (cells[name].to_numpy().reshape(shape) for name in ("actual", "predicted", "held_out"))
    low, high = np.nanmin([np.nanmin(rated), guessed.min()]), np.nanmax([np.nanmax(rated), guessed.max()])
    shades = [[None if np.isnan(value) else float(value) for value in row] for row in rated]
    style: dict[str, Any] = {"colorscale": TASTE, "xgap": 2, "ygap": 2, "showscale": False, "hoverinfo": "skip"}
    figure = go.Figure(go.Heatmap(x=titles, y=users, z=shades, zmin=low, zmax=high, **style))
    known = ~np.isnan(rated)
    outline = {"symbol": "square-open", "size": 27, "color": INK, "line": {"width": 1.5}}
    black, grey = {"color": INK, "size": 13}, {"color": MUTED, "size": 12}
    for mask, mode, font, shown, what in (
        (known & ~held_out, "text", black, "{:g}", "rated %{text} in training"),
        (known & held_out, "markers+text", black, "{:g}", "rated %{text}, held out"),
        (~known, "text", grey, "{:.1f}", "not rated"),
    ):
        at_user, at_item = np.nonzero(mask)
        figure.add_scatter(
            x=[titles[k] for k in at_item],
            y=[users[k] for k in at_user],
            mode=mode,
            marker=outline,
            text=[shown.format(value) for value in np.where(known, rated, guessed)[mask]],
            textfont=font,
            showlegend=False,
            customdata=guessed[mask],
            hovertemplate=f"user %{{y}}, %{{x}}: {what}; predicted %{{customdata:.2f}}<extra></extra>",
        )
    category: dict[str, Any] = {"type": "category", "showgrid": False, "automargin": True}
    figure.update_xaxes(side="top", tickangle=-40, **category)
    figure.update_yaxes(autorange="reversed", title_text="user", ticksuffix=" ", **category)
    note = "strong: rating in training; outlined: rating held out of it; faint: prediction, where there is no rating"
    size = {"height": 212 + 32 * shape[0], "width": 214 + 52 * shape[1], "margin": {"r": 170, "b": 24}}
    return figure.update_layout(title=_titled(title, note), **LAYOUT, **size)


def _titled(title: str, note: str) -> dict[str, Any]:
    """A title, and a note in small letters below it."""
    return {"text": title, "subtitle": {"text": note}}


def place_labels(points: NDArray[np.floating], labels: Sequence[str], width: float, height: float) -> list[str]:
    """Names of Plotly's ``textposition`` for labels beside their points that overlap as little as possible.

    Each label in turn takes the place where it covers least of the other labels, of all points, and of what lies
    outside the frame; after a few turns of all labels nothing changes any more. ``points`` float [N, 2] are pixels from
    the lower left corner of a frame of ``width`` by ``height``.
    """
    names, shifts = list(PLACES), np.array(list(PLACES.values()))
    halves = np.array([[LETTER * len(label) / 2, LINE / 2] for label in labels]).reshape(-1, 2)
    centres = points[:, None] + halves[:, None] * shifts[:, :2] + shifts[:, 2:]  # [N, places, 2]
    boxes = np.concatenate([centres - halves[:, None], centres + halves[:, None]], axis=2)  # left, bottom, right, top
    dots = np.hstack([points - 7.0, points + 7.0])
    frame = np.array([[0.0, 0.0, width, height]])
    chosen = np.zeros(len(points), dtype=np.int64)
    for _ in range(PASSES):
        for k in range(len(points)):
            others = np.arange(len(points)) != k
            taken = np.vstack([boxes[others, chosen[others]], dots[others]])
            own = 4.0 * halves[k].prod()
            covered = [_overlap(box, taken) + own - _overlap(box, frame) for box in boxes[k]]
            chosen[k] = int(np.argmin(np.round(covered, 3)))
    return [names[place] for place in chosen]


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Area that a box [4] shares with others [M, 4], pixels²."""
    overlaps = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.maximum(overlaps, 0.0), axis=1).sum())


def short_titles(titles: Sequence[str], longest: int = LONGEST_TITLE) -> list[str]:
    """Titles that fit a plot: cut with an ellipsis beyond ``longest`` characters."""
    return [title if len(title) <= longest else f"{title[: longest - 1].rstrip()}…" for title in titles]


def _unique(labels: Sequence[str]) -> list[str]:
    """The labels with spaces of no width behind those that come twice: an axis of categories would join them."""
    return [label + "\u200b" * labels[:place].count(label) for place, label in enumerate(labels)]
