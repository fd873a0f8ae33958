"""The pipeline that prepares labelled pictures: from their files to ``<source>.images``."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.pictures import nodes


def create_pipeline(source: str) -> Pipeline:
    """Acquire the pictures of a source, real or generated, and read their labels: ``<source>.images``."""
    acquired = ["params:source", "params:generator"]
    read = ["raw", "params:reading", "params:targets"]
    return Pipeline(
        [
            Node(nodes.acquire, acquired, "raw", name="acquire", tags="acquire"),
            Node(nodes.read_images, read, "images", name="read_images", tags="prepare"),
        ],
        namespace=source,
    )


def create_ceiling_pipeline(source: str) -> Pipeline:
    """Measure the best that a model of generated pictures can expect: ``<source>.ceiling``, empty for real ones."""
    inputs = ["params:source", "params:generator"]
    measure = Node(nodes.measure_ceiling, inputs, "ceiling", name="measure_ceiling", tags="evaluate")
    return Pipeline([measure], namespace=source)
