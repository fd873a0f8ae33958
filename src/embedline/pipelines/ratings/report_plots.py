"""Plots of how well a ratings model does, as Plotly figures from the artifacts that the pipeline stores."""

import itertools
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from embedline.training.plots import ACCENT, INK, LAYOUT, MUTED, SECOND

COUNT_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the classes of training ratings, up to the next one
FEWEST_IN_CLASS = 20  # held-out ratings; an error of fewer is mostly chance
MARGIN = {"l": 64, "r": 40, "t": 132, "b": 72}  # room above for the legend and the panels' names
LEGEND = {"orientation": "h", "x": 0.0, "y": 1.13, "yanchor": "bottom"}
MODELS = {"predicted": ("model", ACCENT), "damped_bias": ("damped biases", SECOND)}
WAYS = {  # of predicting a new item's rating, as the report names them
    "features": "model:<br>features",
    "no_features": "model:<br>no features",
    "features_and_average": "model: features<br>+ average item",
    "user_mean": "mean rating<br>of the user",
    "damped_bias": "damped<br>biases",
}


def training_figure(history: pl.DataFrame, title: str) -> go.Figure:
    """Training loss of each member, the squared error of the held-out ratings by epoch, and the learning rate below."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.08)
    several = history["member"].n_unique() > 1
    for member, records in history.group_by("member", maintain_order=True):
        first = member[0] == 0
        figure.add_scatter(
            x=records["epoch"],
            y=records["train_loss"],
            name="training loss",
            line={"color": ACCENT, "width": 1.2},
            opacity=0.5 if several else 1.0,
            legendgroup="loss",
            showlegend=first,
            row=1,
            col=1,
        )
        if "mse" in history.columns:
            epochs = records.filter(pl.col("mse").is_not_null())
            figure.add_scatter(
                x=epochs["epoch"],
                y=epochs["mse"],
                name="held-out mean squared error" + (" (each member)" if several else ""),
                mode="lines+markers",
                line={"color": SECOND},
                legendgroup="held",
                showlegend=first,
                row=1,
                col=1,
            )
    rates = history.filter(pl.col("member") == 0)
    figure.add_scatter(x=rates["epoch"], y=rates["lr"], line={"color": MUTED}, showlegend=False, row=2, col=1)
    figure.update_yaxes(title_text="squared rating units", row=1, col=1)
    figure.update_yaxes(title_text="learning rate", exponentformat="power", row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure.update_layout(title=title, height=520, legend={"orientation": "h", "y": 1.08}, **LAYOUT)


def error_figure(predictions: pl.DataFrame, title: str) -> go.Figure:
    """Error by the number of training ratings of the user and of the item, and the mean prediction by actual rating.

    Args:
        predictions: of :func:`.predictions.predict_held_out`.
    """
    figure = make_subplots(
        rows=1,
        cols=3,
        subplot_titles=["by the user's training ratings", "by the item's training ratings", "by the actual rating"],
        horizontal_spacing=0.07,
    )
    for col, name in enumerate(("user_ratings", "item_ratings"), start=1):
        classes = count_classes(predictions, name)
        for place, (column, (label, colour)) in enumerate(MODELS.items()):
            figure.add_scatter(
                x=classes["label"],
                y=classes[column],
                name=label,
                mode="lines+markers",
                line={"color": colour, "dash": "dot" if place else "solid"},
                legendgroup=column,
                showlegend=col == 1,
                customdata=classes["rows"],
                hovertemplate=f"{label}: %{{y:.3f}} over %{{customdata:,}} ratings<extra></extra>",
                row=1,
                col=col,
            )
        figure.update_xaxes(title_text="training ratings", type="category", tickangle=-35, row=1, col=col)
    levels = predictions.with_columns(pl.col("actual").round(1)).group_by("actual", maintain_order=True)
    means = levels.agg(pl.col(*MODELS).mean(), pl.len().alias("rows")).sort("actual")
    figure.add_scatter(
        x=means["actual"],
        y=means["actual"],
        mode="lines",
        line={"color": MUTED, "width": 1},
        name="prediction = rating",
        row=1,
        col=3,
    )
    for place, (column, (label, colour)) in enumerate(MODELS.items()):
        figure.add_scatter(
            x=means["actual"],
            y=means[column],
            mode="lines+markers",
            name=label,
            line={"color": colour, "dash": "dot" if place else "solid"},
            legendgroup=column,
            showlegend=False,
            customdata=means["rows"],
            hovertemplate=f"{label}: mean %{{y:.2f}} over %{{customdata:,}} ratings<extra></extra>",
            row=1,
            col=3,
        )
    figure.update_yaxes(title_text="root mean squared error", row=1, col=1)
    figure.update_yaxes(matches="y", row=1, col=2)
    figure.update_yaxes(title_text="mean prediction", row=1, col=3)
    figure.update_xaxes(title_text="actual rating", row=1, col=3)
    return figure.update_layout(title=title, height=470, legend=LEGEND, **LAYOUT | {"margin": MARGIN})


def count_classes(predictions: pl.DataFrame, name: str) -> pl.DataFrame:
    """Root mean squared errors by classes of the counts in the column ``name``.

    Returns:
        ``label``, such as ``5-9``, ``rows``, and an error for each of :data:`MODELS`; classes of fewer than
        :data:`FEWEST_IN_CLASS` rows are left out, unless all are.
    """
    labels = [f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in itertools.pairwise(COUNT_EDGES)]
    labels.append(f"{COUNT_EDGES[-1]}+")
    place = np.searchsorted(np.asarray(COUNT_EDGES), predictions[name].to_numpy(), side="right") - 1
    classes = (
        predictions.with_columns(place=place)
        .group_by("place", maintain_order=True)  # else sums are taken in parallel, in any order
        .agg(pl.len().alias("rows"), *(_rmse(column) for column in MODELS))
        .sort("place")
        .with_columns(label=pl.col("place").map_elements(labels.__getitem__, return_dtype=pl.String))
    )
    enough = classes.filter(pl.col("rows") >= FEWEST_IN_CLASS)
    return enough if len(enough) else classes


def _rmse(column: str) -> pl.Expr:
    return (pl.col(column) - pl.col("actual")).pow(2).mean().sqrt().alias(column)


def cold_start_figure(cold_start: dict[str, Any], title: str) -> go.Figure:
    """Errors on new users by the number of their ratings that were given, and on new items by what is known of them.

    Args:
        cold_start: of :func:`.cold_start.measure_cold_start`.
    """
    of_users, of_items = cold_start["new_users"], cold_start["new_items"]
    figure = make_subplots(
        rows=1,
        cols=2,
        subplot_titles=[
            f"new users: {of_users['users']:,} users, {of_users['rows']:,} ratings",
            f"new items: {of_items['items']:,} items, {of_items['rows']:,} ratings",
        ],
        horizontal_spacing=0.12,
    )
    given = list(of_users["given"])
    lines = {
        "model, folded in": ([of_users["given"][n]["rmse"] for n in given], ACCENT, "solid"),
        "damped biases": ([of_users["given"][n]["baselines"]["damped_bias"]["rmse"] for n in given], SECOND, "dot"),
    }
    for name, (errors, colour, dash) in lines.items():
        figure.add_scatter(
            x=given, y=errors, name=name, mode="lines+markers", line={"color": colour, "dash": dash}, row=1, col=1
        )
    main = "features" if "no_features" in of_items else "no_features"
    dots = {main: of_items, **{name: of_items[name] for name in WAYS if name in of_items}, **of_items["baselines"]}
    colours = [SECOND if name in of_items["baselines"] else ACCENT for name in dots]
    values = [one["rmse"] for one in dots.values()]
    room = 0.25 * max(max(values) - min(values), 1e-3)
    figure.add_scatter(
        x=[WAYS[name] for name in dots],
        y=values,
        mode="markers+text",
        marker={
            "color": colours,
            "symbol": ["circle" if name in (main, *of_items["baselines"]) else "circle-open" for name in dots],
            "size": 13,
            "line": {"width": 2, "color": colours},
        },
        text=[f"{value:.3f}" for value in values],
        textposition="top center",
        textfont={"color": INK},
        cliponaxis=False,
        showlegend=False,
        hovertemplate="%{y:.4f}<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_xaxes(type="category", title_text="ratings given of each new user", row=1, col=1)
    figure.update_yaxes(title_text="root mean squared error", row=1, col=1)
    span = [min(values) - room, max(values) + room]
    figure.update_yaxes(title_text="root mean squared error", range=span, row=1, col=2)
    return figure.update_layout(title=title, height=470, legend=LEGEND, **LAYOUT | {"margin": MARGIN})
