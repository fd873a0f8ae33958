"""The Rossmann preparation, from an archive or the generator to ``rossmann.table``, the submission and the service."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.publish import pipeline as publish
from embedline.pipelines.rossmann import nodes, service_nodes

SOURCE = "rossmann"
TABLES = ("train", "test", "store", "store_states", "state_names", "googletrend", "weather")


def create_pipeline() -> Pipeline:
    """Acquire the seven files, type them, join them, build the features: ``rossmann.table``."""
    sources = ["params:source", "params:verify", "params:generator"]
    raw = {table: f"raw_{table}@bytes" for table in TABLES}
    stores = ["raw_store@frame", "raw_store_states@frame", "raw_state_names@frame"]
    joined = ["sales", "stores", "weather", "trends", "params:features"]
    return Pipeline(
        [
            Node(nodes.acquire, sources, raw, name="acquire", tags="acquire"),
            _prepare(nodes.type_sales, ["raw_train@frame", "raw_test@frame"], "sales"),
            _prepare(nodes.type_stores, stores, "stores"),
            _prepare(nodes.type_weather, ["raw_weather@frame", "raw_state_names@frame"], "weather"),
            _prepare(nodes.type_trends, ["raw_googletrend@frame"], "trends"),
            _prepare(nodes.join_tables, joined, "joined"),
            _prepare(nodes.build_calendar, ["sales", "params:features"], "calendar"),
            _prepare(nodes.build_table, ["joined", "calendar", "params:features"], "table"),
        ],
        namespace=SOURCE,
    )


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
        pack_inputs=["model", *tables, "params:features"],
        hold_out=service_nodes.hold_out,
        hold_out_inputs=["table", "params:columns", "params:split"],
    )


def _prepare(function: Callable[..., Any], inputs: list[str], output: str) -> Node:
    return Node(function, inputs, output, name=function.__name__, tags="prepare")
