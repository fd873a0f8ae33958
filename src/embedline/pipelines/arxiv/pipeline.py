"""The pipeline that prepares arXiv's papers: from the snapshot to ``arxiv.documents``."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.arxiv import nodes
from embedline.pipelines.imdb import pipeline as corpora

SOURCE = "arxiv"


def create_pipeline() -> Pipeline:
    """Choose papers from the snapshot, real or generated, and read them as any table of texts: ``arxiv.documents``."""
    inputs = ["params:source", "params:selection", "params:generator"]
    acquire = Node(nodes.acquire, inputs, "raw", name="acquire", tags="acquire")
    return Pipeline([acquire], namespace=SOURCE) + corpora.create_reading_pipeline(SOURCE)
