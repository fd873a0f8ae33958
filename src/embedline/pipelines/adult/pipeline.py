"""The preparation of the Adult data, from the two files to ``adult.table``."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.adult import nodes

SOURCE = "adult"


def create_pipeline() -> Pipeline:
    """Acquire the two files, real or generated, and read them: ``adult.table``."""
    inputs = ["params:source", "params:verify", "params:generator"]
    raw = {"adult.data": "raw_data", "adult.test": "raw_test"}
    return Pipeline(
        [
            Node(nodes.acquire, inputs, raw, name="acquire", tags="acquire"),
            Node(nodes.read_table, list(raw.values()), "table", name="read_table", tags="prepare"),
        ],
        namespace=SOURCE,
    )


def create_ceiling_pipeline() -> Pipeline:
    """Measure the best that a model of generated incomes can expect: ``adult.ceiling``, empty for real incomes."""
    inputs = ["params:source", "params:generator"]
    measure = Node(nodes.measure_ceiling, inputs, "ceiling", name="measure_ceiling", tags="evaluate")
    return Pipeline([measure], namespace=SOURCE)
