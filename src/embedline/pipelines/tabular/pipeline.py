"""The learner as two modular pipelines, instantiated for a source by its namespace."""

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.tabular import backtest_nodes, nodes, plot_nodes
from embedline.pipelines.tabular.options import MOST_WINDOWS


def create_pipeline(source: str, *, table: str | None = None, ceiling: str | None = None) -> Pipeline:
    """Encode, train, predict the held-out rows, compare with baselines and plot, all under the namespace ``source``.

    Args:
        source: namespace: parameters are read from ``params:<source>.…``, artifacts are named ``<source>.…``.
        table: canonical frame to learn from; ``<source>.table`` unless given.
        ceiling: dataset of the best values that a model can expect, by target and metric, to stand beside the metrics;
            None where the law of the data is not known.
    """
    bound = {"ceiling": ceiling} if ceiling else {}
    learner = Pipeline([*_training_nodes(), *_evaluation_nodes([*bound]), *_plot_nodes()])
    return Pipeline(learner, namespace=source, inputs={"table": table or f"{source}.table", **bound})


def create_final_pipeline(source: str, *, table: str) -> Pipeline:
    """Fit on all labelled rows (``params:<source>.split`` of the kind ``none``) and predict those without a target."""
    final = Pipeline(
        [
            *_training_nodes(),
            Node(
                nodes.forecast,
                ["encoded", "model", "params:columns", "intervals"],
                "forecast",
                name="forecast",
                tags="predict",
            ),
        ]
    )
    return Pipeline(final, namespace=source, inputs={"table": table})


def create_backtest_pipeline(
    source: str, *, table: str | None = None, make_table: tuple[Callable[..., Any], Sequence[str]] | None = None
) -> Pipeline:
    """Forecast the last windows of the training part, each from the rows before it, and compare.

    Args:
        source: namespace; its parameters and ``params:<source>.backtest`` are read.
        table: canonical frame that the windows are planned by and, without ``make_table``, cut from.
        make_table: function of its inputs, whose names follow it, and of a window: the canonical frame of the window,
            where features of its rows depend on where it begins and ends.
    """
    windows = [f"backtest_window_{number}" for number in range(1, MOST_WINDOWS + 1)]
    plan = Node(
        backtest_nodes.plan_backtest,
        ["table", "params:columns", "params:split", "params:backtest"],
        windows,
        name="plan_backtest",
        tags="backtest",
    )
    settings = [f"params:{block}" for block in ("columns", "encoding", "network", "training", "baselines", "report")]
    made, predictions, costs = [plan], [], []
    for number, window in enumerate(windows, start=1):
        own = "table"
        if make_table:
            own, (function, inputs) = f"backtest_table_{number}", make_table
            made.append(Node(function, [*inputs, window], own, name=f"make_window_{number}", tags="backtest"))
        predictions.append(f"backtest_predictions_{number}")
        costs.append(f"backtest_costs_{number}")
        made.append(
            Node(
                backtest_nodes.forecast_window,
                [own, window, *settings],
                [predictions[-1], costs[-1]],
                name=f"forecast_window_{number}",
                tags="backtest",
            )
        )
    made += [
        Node(
            backtest_nodes.summarise_backtest,
            ["params:columns", "params:split", "params:report", *predictions, *costs],
            "backtest_metrics",
            name="summarise_backtest",
            tags="backtest",
        ),
        Node(backtest_nodes.plot_backtest, "backtest_metrics", "backtest_plot", name="plot_backtest", tags="plot"),
    ]
    shared = {name: f"{source}.{name}" for name in (make_table[1] if make_table else ()) if ":" not in name}
    return Pipeline(made, namespace=source, inputs={"table": table or f"{source}.table", **shared})


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
        Node(
            nodes.calibrate_intervals,
            ["table", "params:columns", "params:split", "params:encoding", "params:network", "params:training"],
            "intervals",
            name="calibrate_intervals",
            tags="train",
        ),
    ]


def _evaluation_nodes(bound: list[str]) -> list[Node]:
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
                "intervals",
            ],
            "predictions",
            name="predict",
            tags="evaluate",
        ),
        Node(
            nodes.evaluate,
            ["predictions", "model", "baseline_costs", "fold_costs", "params:columns", "params:report", *bound],
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
        Node(plot_nodes.plot_training, "history", "training_plot", name="plot_training", tags="plot"),
        Node(
            plot_nodes.plot_learning_rates,
            "learning_rates",
            "learning_rate_plot",
            name="plot_learning_rates",
            tags="plot",
        ),
        Node(
            plot_nodes.plot_forecast,
            ["predictions", "encoder", "params:columns", "params:report"],
            "forecast_plot",
            name="plot_forecast",
            tags="plot",
        ),
        Node(
            plot_nodes.plot_errors,
            ["predictions", "encoder", "params:report"],
            "error_plot",
            name="plot_errors",
            tags="plot",
        ),
        Node(plot_nodes.plot_importance, "importance", "importance_plot", name="plot_importance", tags="plot"),
        Node(
            plot_nodes.plot_embeddings,
            ["embeddings", "encoder", "params:report"],
            "embedding_plot",
            name="plot_embeddings",
            tags="plot",
        ),
    ]
