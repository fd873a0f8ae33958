"""The tuning of each learner as a modular pipeline, instantiated for a source by its namespace."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.tuning import nodes

TAG = "tune"  # of nodes with a study, which the hook Studies keeps
OUTPUTS = ["trials", "tuned"]


def create_table_tuning(source: str, *, table: str | None = None) -> Pipeline:
    """Tune the network or the LightGBM of a table: ``<source>.trials``, ``.tuned`` and ``.tuning_plot``.

    Parameters are read from ``params:<source>.…``, the search from ``params:<source>.tune``; ``table`` is the canonical
    frame, ``<source>.table`` unless given.
    """
    blocks = ("columns", "split", "encoding", "network", "training", "baselines", "tune")
    inputs = {"table": "table", **{block: f"params:{block}" for block in blocks}}
    learner = [
        Node(nodes.tune_table, inputs, OUTPUTS, name="tune", tags=TAG),
        Node(nodes.plot_table_tuning, ["trials", "params:tune"], "tuning_plot", name="plot_tuning", tags="plot"),
    ]
    return Pipeline(learner, namespace=source, inputs={"table": table or f"{source}.table"})


def create_ratings_tuning(source: str, *, items: bool = True, users: bool = False) -> Pipeline:
    """Tune the network of ratings; ``items`` and ``users`` say whether there are such frames."""
    blocks = ("columns", "split", "rating_range", "features", "network", "training", "baselines", "tune")
    names = ["ratings", *(["items"] if items else []), *(["users"] if users else [])]
    inputs = {**{name: name for name in names}, **{block: f"params:{block}" for block in blocks}}
    learner = [Node(nodes.tune_ratings, inputs, OUTPUTS, name="tune", tags=TAG), _plot_node()]
    return Pipeline(learner, namespace=source, inputs={name: f"{source}.{name}" for name in names})


def create_text_tuning(source: str) -> Pipeline:
    """Tune the classifier of texts on top of the language model that is stored."""
    names = ["ids", "vocabulary", "language_model"]
    settings = {"classes": "classes", "classifier": "classifier", "training": "classifier_training", "tune": "tune"}
    inputs = {**{name: name for name in names}, **{name: f"params:{block}" for name, block in settings.items()}}
    learner = [Node(nodes.tune_text, inputs, OUTPUTS, name="tune", tags=TAG), _plot_node()]
    return Pipeline(learner, namespace=source, inputs={name: f"{source}.{name}" for name in names})


def _plot_node() -> Node:
    return Node(nodes.plot_tuning, ["trials", "params:tune"], "tuning_plot", name="plot_tuning", tags="plot")
