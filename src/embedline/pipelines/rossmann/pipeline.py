"""The Rossmann preparation, from an archive or the generator to ``rossmann.table``, the submission and the service."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.publish import pipeline as publish
from embedline.pipelines.rossmann import nodes, service_nodes

SOURCE = "rossmann"
TABLES = ("train", "test", "store", "store_states", "state_names", "googletrend", "weather")


def create_pipeline() -> Pipeline:
    """Acquire the seven files, type them, join them, build the features: ``rossmann.table``."""
    return Pipeline([_acquire_node(), *_typing_nodes(), *_feature_nodes()], namespace=SOURCE)


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


def _acquire_node() -> Node:
    return Node(
        nodes.acquire,
        ["params:source", "params:verify", "params:generator"],
        {table: f"raw_{table}@bytes" for table in TABLES},
        name="acquire",
        tags="acquire",
    )


def _typing_nodes() -> list[Node]:
    return [
        Node(nodes.type_sales, ["raw_train@frame", "raw_test@frame"], "sales", name="type_sales", tags="prepare"),
        Node(
            nodes.type_stores,
            ["raw_store@frame", "raw_store_states@frame", "raw_state_names@frame"],
            "stores",
            name="type_stores",
            tags="prepare",
        ),
        Node(
            nodes.type_weather,
            ["raw_weather@frame", "raw_state_names@frame"],
            "weather",
            name="type_weather",
            tags="prepare",
        ),
        Node(nodes.type_trends, "raw_googletrend@frame", "trends", name="type_trends", tags="prepare"),
    ]


def _feature_nodes() -> list[Node]:
    return [
        Node(
            nodes.join_tables,
            ["sales", "stores", "weather", "trends", "params:features"],
            "joined",
            name="join_tables",
            tags="prepare",
        ),
        Node(nodes.build_calendar, ["sales", "params:features"], "calendar", name="build_calendar", tags="prepare"),
        Node(
            nodes.build_table,
            ["joined", "calendar", "params:features"],
            "table",
            name="build_table",
            tags="prepare",
        ),
    ]
