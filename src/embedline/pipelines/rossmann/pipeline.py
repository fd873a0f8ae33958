"""The Rossmann preparation, from an archive or the generator to ``rossmann.table``, the submission and the service."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.publish import pipeline as publish
from embedline.pipelines.rossmann import nodes, service_nodes
from embedline.pipelines.tabular import pipeline as tabular

SOURCE = "rossmann"
TABLES = ("train", "test", "store", "store_states", "state_names", "googletrend", "weather")


def create_pipeline() -> Pipeline:
    """Acquire the seven files, type them, join them, build the features: ``rossmann.table``."""
    return create_typing_pipeline() + create_table_pipeline(SOURCE)


def create_typing_pipeline() -> Pipeline:
    """Acquire the seven files and type them: ``rossmann.sales``, ``stores``, ``weather`` and ``trends``."""
    sources = ["params:source", "params:verify", "params:generator"]
    raw = {table: f"raw_{table}@bytes" for table in TABLES}
    stores = ["raw_store@frame", "raw_store_states@frame", "raw_state_names@frame"]
    return Pipeline(
        [
            Node(nodes.acquire, sources, raw, name="acquire", tags="acquire"),
            _prepare(nodes.type_sales, ["raw_train@frame", "raw_test@frame"], "sales"),
            _prepare(nodes.type_stores, stores, "stores"),
            _prepare(nodes.type_weather, ["raw_weather@frame", "raw_state_names@frame"], "weather"),
            _prepare(nodes.type_trends, ["raw_googletrend@frame"], "trends"),
        ],
        namespace=SOURCE,
    )


def create_table_pipeline(namespace: str) -> Pipeline:
    """Join the typed tables and build the features: ``<namespace>.table``.

    What a row's features may know of later days depends on the split: each split has a table of its own, by its
    parameters ``params:<namespace>.features`` and ``params:<namespace>.split``.
    """
    typed = ("sales", "stores", "weather", "trends")
    options = ["params:features", "params:split"]
    return Pipeline(
        [
            _prepare(nodes.join_tables, [*typed, *options], "joined"),
            _prepare(nodes.build_calendar, ["sales", *options], "calendar"),
            _prepare(nodes.build_recency, ["sales", *options], "recency"),
            _prepare(nodes.build_table, ["joined", "calendar", "recency", *options], "table"),
        ],
        namespace=namespace,
        inputs={name: f"{SOURCE}.{name}" for name in typed},
    )


def create_backtest_pipeline() -> Pipeline:
    """Forecast the last windows of the training part, each from a table of its own: it has its own horizon."""
    inputs = ["sales", "stores", "weather", "trends", "params:features"]
    return tabular.create_backtest_pipeline(SOURCE, make_table=(nodes.make_window, inputs))


def create_ceiling_pipeline() -> Pipeline:
    """Measure the best that a model of generated sales can expect: ``rossmann.ceiling``, empty for real sales."""
    inputs = ["params:source", "params:generator"]
    measure = Node(nodes.measure_ceiling, inputs, "ceiling", name="measure_ceiling", tags="evaluate")
    return Pipeline([measure], namespace=SOURCE)


def create_submission_pipeline(forecast: str) -> Pipeline:
    """Turn the final model's predictions, the dataset ``forecast``, into the file that Kaggle takes."""
    submit = Node(nodes.make_submission, ["table", "forecast"], "submission", name="make_submission", tags="predict")
    return Pipeline([submit], namespace=SOURCE, inputs={"forecast": forecast})


def create_publish_pipeline() -> Pipeline:
    """Pack and measure ``rossmann.service``."""
    tables = ("encoded", "sales", "stores", "weather", "trends")
    return publish.create_publish_pipeline(
        "rossmann",
        pack=service_nodes.pack_service,
        pack_inputs=["model", *tables, "params:features", "params:split", "intervals"],
        hold_out=service_nodes.hold_out,
        hold_out_inputs=["table", "params:columns", "params:split"],
    )


def _prepare(function: Callable[..., Any], inputs: list[str], output: str) -> Node:
    return Node(function, inputs, output, name=function.__name__, tags="prepare")
