"""The learner as two modular pipelines, instantiated for a source by its namespace."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.tabular import nodes


def create_pipeline(source: str, *, table: str | None = None) -> Pipeline:
    """Encode, train, predict the held-out rows, compare with baselines and plot, all under the namespace ``source``.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        table: canonical frame to learn from; ``<source>.table`` unless given.
    """
    learner = Pipeline([*_training_nodes(), *_evaluation_nodes(), *_plot_nodes()])
    return Pipeline(learner, namespace=source, inputs={"table": table or f"{source}.table"})


def create_final_pipeline(source: str, *, table: str) -> Pipeline:
    """Fit on all labelled rows (``params:<source>.split`` of the kind ``none``) and predict those without a target."""
    final = Pipeline(
        [
            *_training_nodes(),
            Node(nodes.forecast, ["encoded", "model", "params:columns"], "forecast", name="forecast", tags="predict"),
        ]
    )
    return Pipeline(final, namespace=source, inputs={"table": table})


def _training_nodes() -> list[Node]:
    return [
        Node(
            nodes.fit_encoder,
            ["table", "params:columns", "params:split", "params:encoding"],
            "encoder",
            name="fit_encoder",
            tags="encode",
        ),
        Node(
            nodes.encode,
            ["table", "encoder", "params:columns", "params:split"],
            "encoded",
            name="encode",
            tags="encode",
        ),
        Node(
            nodes.train,
            ["encoded", "encoder", "params:network", "params:training"],
            ["model", "history"],
            name="train",
            tags="train",
        ),
    ]


def _evaluation_nodes() -> list[Node]:
    return [
        Node(
            nodes.find_learning_rate,
            ["encoded", "encoder", "params:network", "params:training", "params:finder"],
            "learning_rates",
            name="find_learning_rate",
            tags="train",
        ),
        Node(
            nodes.fit_baselines,
            ["table", "encoded", "encoder", "params:columns", "params:split", "params:baselines"],
            ["baseline_predictions", "baseline_costs"],
            name="fit_baselines",
            tags="evaluate",
        ),
        Node(
            nodes.cross_validate,
            [
                "table",
                "params:columns",
                "params:split",
                "params:encoding",
                "params:network",
                "params:training",
                "params:baselines",
            ],
            ["fold_predictions", "fold_costs"],
            name="cross_validate",
            tags="evaluate",
        ),
        Node(
            nodes.predict,
            [
                "table",
                "encoded",
                "model",
                "baseline_predictions",
                "fold_predictions",
                "params:columns",
                "params:split",
                "params:report",
            ],
            "predictions",
            name="predict",
            tags="evaluate",
        ),
        Node(
            nodes.evaluate,
            ["predictions", "model", "baseline_costs", "fold_costs"],
            "metrics",
            name="evaluate",
            tags="evaluate",
        ),
        Node(
            nodes.measure_importance,
            ["encoded", "model", "params:report"],
            "importance",
            name="measure_importance",
            tags="evaluate",
        ),
        Node(nodes.extract_embeddings, "model", "embeddings", name="extract_embeddings", tags="evaluate"),
    ]


def _plot_nodes() -> list[Node]:
    return [
        Node(nodes.plot_training, "history", "training_plot", name="plot_training", tags="plot"),
        Node(
            nodes.plot_learning_rates, "learning_rates", "learning_rate_plot", name="plot_learning_rates", tags="plot"
        ),
        Node(
            nodes.plot_forecast,
            ["predictions", "encoder", "params:columns", "params:report"],
            "forecast_plot",
            name="plot_forecast",
            tags="plot",
        ),
        Node(
            nodes.plot_errors,
            ["predictions", "encoder", "params:report"],
            "error_plot",
            name="plot_errors",
            tags="plot",
        ),
        Node(nodes.plot_importance, "importance", "importance_plot", name="plot_importance", tags="plot"),
        Node(
            nodes.plot_embeddings,
            ["embeddings", "encoder", "params:report"],
            "embedding_plot",
            name="plot_embeddings",
            tags="plot",
        ),
    ]
