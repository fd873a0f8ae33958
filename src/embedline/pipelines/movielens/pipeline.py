"""The preparation of MovieLens, from its files to the frames of its ratings, items and users."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.movielens import files, nodes

SOURCE = "movielens"


def create_pipeline() -> Pipeline:
    """Acquire the files of a release, real or generated, and read them."""
    inputs = ["params:source", "params:verify", "params:generator"]
    return Pipeline(
        [
            Node(nodes.acquire, inputs, "raw", name="acquire", tags="acquire"),
            Node(files.read_ratings, "raw", "ratings", name="read_ratings", tags="prepare"),
            Node(nodes.read_items, ["raw", "ratings"], "items", name="read_items", tags="prepare"),
            Node(nodes.read_users, ["raw", "ratings"], "users", name="read_users", tags="prepare"),
        ],
        namespace=SOURCE,
    )


def create_ceiling_pipeline() -> Pipeline:
    """Measure the best that a model of generated ratings can expect: ``movielens.ceiling``, empty for real ratings."""
    inputs = ["params:source", "params:generator"]
    measure = Node(nodes.measure_ceiling, inputs, "ceiling", name="measure_ceiling", tags="evaluate")
    return Pipeline([measure], namespace=SOURCE)
