"""The learner as modular pipelines, instantiated for a source by its namespace."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.ratings import nodes

Inputs = dict[str, str]  # argument of a node's function: dataset


def create_pipeline(source: str, *, items: bool = True, users: bool = False, ratings: str | None = None) -> Pipeline:
    """Encode, train, predict the held-out ratings, compare with baselines, try the cold start, recommend and plot.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        items: whether there is a frame ``<source>.items``, with titles and what ``features.items`` names.
        users: whether there is a frame ``<source>.users``, with what ``features.users`` names.
        ratings: canonical frame to learn from; ``<source>.ratings`` unless given.
    """
    described = {"items": "items"} if items else {}
    both = described | ({"users": "users"} if users else {})
    learner = [*_training_nodes(both), *_evaluation_nodes(described, both), *_plot_nodes(described)]
    return Pipeline(learner, namespace=source, inputs=_inputs(source, both, ratings))


def create_cross_validation_pipeline(
    source: str, *, items: bool = True, users: bool = False, ratings: str | None = None
) -> Pipeline:
    """Train and measure a model of its own for each value of ``params:<source>.cross_validation.column``.

    Args:
        source: as of :func:`create_pipeline`, whose blocks of parameters it reads.
        items: likewise.
        users: likewise.
        ratings: likewise.
    """
    both = ({"items": "items"} if items else {}) | ({"users": "users"} if users else {})
    blocks = ("columns", "rating_range", "features", "network", "training", "baselines", "cross_validation")
    node = Node(
        nodes.cross_validate,
        {"ratings": "ratings", **_params(*blocks), **both},
        "folds",
        name="cross_validate",
        tags="train",
    )
    return Pipeline([node], namespace=source, inputs=_inputs(source, both, ratings))


def _inputs(source: str, frames: Inputs, ratings: str | None) -> Inputs:
    return {"ratings": ratings or f"{source}.ratings", **{name: f"{source}.{name}" for name in frames}}


def _params(*blocks: str) -> Inputs:
    return {block: f"params:{block}" for block in blocks}


def _training_nodes(both: Inputs) -> list[Node]:
    ratings, encoded = {"ratings": "ratings"}, {"encoded": "encoded", "encoder": "encoder"}
    return [
        Node(
            nodes.fit_encoder,
            {**ratings, **_params("columns", "split", "rating_range", "features"), **both},
            "encoder",
            name="fit_encoder",
            tags="encode",
        ),
        Node(
            nodes.encode,
            {**ratings, "encoder": "encoder", **_params("columns", "split")},
            "encoded",
            name="encode",
            tags="encode",
        ),
        Node(
            nodes.find_learning_rate,
            {**encoded, **_params("network", "training", "finder")},
            "learning_rates",
            name="find_learning_rate",
            tags="train",
        ),
        Node(
            nodes.train,
            {**encoded, **_params("network", "training")},
            ["model", "history"],
            name="train",
            tags="train",
        ),
    ]


def _evaluation_nodes(items: Inputs, both: Inputs) -> list[Node]:
    learned = {"encoded": "encoded", "model": "model"}
    trial = ("columns", "split", "rating_range", "features", "network", "training", "baselines", "cold_start")
    return [
        Node(
            nodes.predict,
            {"ratings": "ratings", **learned, **_params("columns", "split", "baselines")},
            "predictions",
            name="predict",
            tags="evaluate",
        ),
        Node(
            nodes.evaluate,
            {"predictions": "predictions", **learned, **_params("baselines", "ranking")},
            "metrics",
            name="evaluate",
            tags="evaluate",
        ),
        Node(
            nodes.measure_cold_start,
            {"ratings": "ratings", **_params(*trial, "fold_in"), **both},
            "cold_start",
            name="measure_cold_start",
            tags="evaluate",
        ),
        Node(
            nodes.describe_items,
            {**learned, **_params("recommendation", "report"), **items},
            ["biases", "neighbours"],
            name="describe_items",
            tags="evaluate",
        ),
        Node(
            nodes.recommend,
            {**learned, **_params("recommendation"), **items},
            "recommendations",
            name="recommend",
            tags="predict",
        ),
    ]


def _plot_nodes(items: Inputs) -> list[Node]:
    shown = {"encoded": "encoded", "model": "model", **_params("report"), **items}
    return [
        Node(nodes.plot_training, "history", "training_plot", name="plot_training", tags="plot"),
        Node(
            nodes.plot_learning_rates, "learning_rates", "learning_rate_plot", name="plot_learning_rates", tags="plot"
        ),
        Node(nodes.plot_errors, "predictions", "error_plot", name="plot_errors", tags="plot"),
        Node(nodes.plot_cold_start, "cold_start", "cold_start_plot", name="plot_cold_start", tags="plot"),
        Node(nodes.plot_biases, ["biases", "params:report"], "bias_plot", name="plot_biases", tags="plot"),
        Node(nodes.plot_map, shown, "map_plot", name="plot_map", tags="plot"),
        Node(nodes.plot_crosstab, shown, "crosstab_plot", name="plot_crosstab", tags="plot"),
    ]
