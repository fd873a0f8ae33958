"""The pipeline that prepares a text corpus: from its files to ``<source>.documents``."""

from kedro.pipeline import Node, Pipeline

from embedline.pipelines.imdb import nodes

SOURCE = "imdb"


def create_pipeline() -> Pipeline:
    """Acquire the movie reviews, real or generated, and read them: ``imdb.documents``."""
    inputs = ["params:source", "params:verify", "params:generator"]
    acquire = Node(nodes.acquire, inputs, "raw", name="acquire", tags="acquire")
    return Pipeline([acquire], namespace=SOURCE) + create_reading_pipeline(SOURCE)


def create_ceiling_pipeline() -> Pipeline:
    """Measure the best that a model of generated reviews can expect: ``imdb.ceiling``, empty for real reviews."""
    inputs = ["params:source", "params:generator"]
    measure = Node(nodes.measure_ceiling, inputs, "ceiling", name="measure_ceiling", tags="evaluate")
    return Pipeline([measure], namespace=SOURCE)


def create_corpus_pipeline(source: str) -> Pipeline:
    """Acquire your own corpus and read it: ``<source>.documents``; parameters ``source``, ``reading``, ``classes``."""
    acquire = Node(nodes.acquire_corpus, "params:source", "raw", name="acquire", tags="acquire")
    return Pipeline([acquire], namespace=source) + create_reading_pipeline(source)


def create_reading_pipeline(source: str) -> Pipeline:
    """Read the files of ``<source>.raw``: ``<source>.documents``; parameters ``reading`` and ``classes``."""
    inputs = ["raw", "params:reading", "params:classes"]
    read = Node(nodes.read_documents, inputs, "documents", name="read_documents", tags="prepare")
    return Pipeline([read], namespace=source)
