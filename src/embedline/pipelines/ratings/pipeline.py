"""The learner as modular pipelines, instantiated for a source by its namespace."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.ratings import nodes

Inputs = dict[str, str]  # argument of a node's function: dataset


def create_pipeline(
    source: str,
    *,
    items: bool = True,
    users: bool = False,
    ratings: str | None = None,
    ceiling: str | None = None,
    events: bool = False,
) -> Pipeline:
    """Encode, train, predict the held-out ratings, compare with baselines, try the cold start, recommend and plot.

    Of events without ratings (``columns.rating: null``): encode, fit the ranker, measure it and recommend.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        items: whether there is a frame ``<source>.items``, with titles and what ``features.items`` names.
        users: whether there is a frame ``<source>.users``, with what ``features.users`` names.
        ratings: canonical frame to learn from; ``<source>.ratings`` unless given.
        ceiling: dataset of the best values that a model can expect, by metric, to stand beside the metrics; None where
            the law of the ratings is not known.
        events: whether there are no ratings to predict; then there is no rating model.
    """
    described = {"items": "items"} if items else {}
    both = described | ({"users": "users"} if users else {})
    bound = {"ceiling": ceiling} if ceiling else {}
    if events:
        return Pipeline(_event_nodes(described, both), namespace=source, inputs=_inputs(source, both, ratings))
    learner = [*_learner_nodes(described, both, {name: name for name in bound}), *_plot_nodes(described)]
    return Pipeline(learner, namespace=source, inputs={**_inputs(source, both, ratings), **bound})


def create_cross_validation_pipeline(
    source: str, *, items: bool = True, users: bool = False, ratings: str | None = None
) -> Pipeline:
    """Train and measure a model of its own for each value of ``params:<source>.cross_validation.column``.

    The arguments are those of :func:`create_pipeline`, without a ceiling.
    """
    both = ({"items": "items"} if items else {}) | ({"users": "users"} if users else {})
    blocks = ("columns", "rating_range", "features", "network", "training", "baselines", "cross_validation")
    node = _node(nodes.cross_validate, {"ratings": "ratings", **_params(*blocks), **both}, "folds", "train")
    return Pipeline([node], namespace=source, inputs=_inputs(source, both, ratings))


def _inputs(source: str, frames: Inputs, ratings: str | None) -> Inputs:
    return {"ratings": ratings or f"{source}.ratings", **{name: f"{source}.{name}" for name in frames}}


def _params(*blocks: str) -> Inputs:
    return {block: f"params:{block}" for block in blocks}


def _node(function: Callable[..., Any], inputs: Inputs, outputs: str | list[str], tag: str) -> Node:
    return Node(function, inputs, outputs, name=function.__name__, tags=tag)


def _learner_nodes(items: Inputs, both: Inputs, bound: Inputs) -> list[Node]:
    ratings, fitted = {"ratings": "ratings"}, {"encoded": "encoded", "encoder": "encoder"}
    learned = {"encoded": "encoded", "model": "model"}
    encoding = {**ratings, **_params("columns", "split", "rating_range", "features"), **both}
    lists = _params("ranking", "recommendation", "rankers")
    trial = {**encoding, **_params("network", "training", "baselines", "cold_start", "fold_in"), **lists}
    found = ["biases", "neighbours"]
    return [
        *_encoding_nodes(both, _params("network", "training")),
        _node(
            nodes.find_learning_rate, {**fitted, **_params("network", "training", "finder")}, "learning_rates", "train"
        ),
        _node(nodes.train, {**fitted, **_params("network", "training")}, ["model", "history"], "train"),
        _node(
            nodes.predict, {**ratings, **learned, **_params("columns", "split", "baselines")}, "predictions", "evaluate"
        ),
        _node(
            nodes.evaluate,
            {"predictions": "predictions", **learned, "ranker": "ranker", **_params("ranking"), **bound},
            "metrics",
            "evaluate",
        ),
        _node(nodes.measure_cold_start, trial, "cold_start", "evaluate"),
        _node(nodes.describe_items, {**learned, **_params("recommendation", "report"), **items}, found, "evaluate"),
        _recommend_node({**learned, **items}),
    ]


def _encoding_nodes(both: Inputs, network: Inputs) -> list[Node]:
    """The encoder, the encoded rows, and the ranker that is fitted on those of training."""
    ratings, encoder = {"ratings": "ratings"}, {"encoder": "encoder"}
    encoding = {**ratings, **_params("columns", "split", "rating_range", "features"), **both}
    choice = {**ratings, **encoder, **_params("split", "ranking", "recommendation", "rankers"), **network}
    return [
        _node(nodes.fit_encoder, encoding, "encoder", "encode"),
        _node(nodes.encode, {**ratings, **encoder, **_params("columns", "split")}, "encoded", "encode"),
        _node(nodes.fit_ranker, choice, "ranker", "train"),
    ]


def _recommend_node(inputs: Inputs) -> Node:
    ranked = {**inputs, "ranker": "ranker", **_params("recommendation")}
    return _node(nodes.recommend, ranked, "recommendations", "predict")


def _event_nodes(items: Inputs, both: Inputs) -> list[Node]:
    measured = {"encoded": "encoded", "ranker": "ranker", **_params("ranking")}
    return [
        *_encoding_nodes(both, {}),
        _node(nodes.evaluate_events, measured, "metrics", "evaluate"),
        _recommend_node({"encoded": "encoded", **items}),
    ]


def _plot_nodes(items: Inputs) -> list[Node]:
    shown = {"encoded": "encoded", "model": "model", **_params("report"), **items}
    return [
        _node(nodes.plot_training, {"history": "history"}, "training_plot", "plot"),
        _node(nodes.plot_learning_rates, {"learning_rates": "learning_rates"}, "learning_rate_plot", "plot"),
        _node(nodes.plot_errors, {"predictions": "predictions"}, "error_plot", "plot"),
        _node(nodes.plot_cold_start, {"cold_start": "cold_start"}, "cold_start_plot", "plot"),
        _node(nodes.plot_biases, {"biases": "biases", **_params("report")}, "bias_plot", "plot"),
        _node(nodes.plot_map, shown, "map_plot", "plot"),
        _node(nodes.plot_crosstab, shown, "crosstab_plot", "plot"),
    ]
