"""From the files of a corpus to its canonical frame: a row a document."""

import logging

import polars as pl

from embedline.archive import files_frame
from embedline.paths import GENERATED, find_source
from embedline.pipelines.imdb import corpus
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.imdb.simulator import GeneratorOptions, bayes_accuracy, generate_files
from embedline.pipelines.text.documents import check_classes, count_shared_texts
from embedline.pipelines.text.options import Classes

logger = logging.getLogger(__name__)


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> pl.DataFrame:
    """Fetch the reviews from the address ``source``, or simulate them: columns ``path`` and ``content`` (verbatim)."""
    if source == GENERATED:
        return files_frame(generate_files(generator))
    return corpus.read_files(find_source(source), verify=verify)


def measure_ceiling(source: str, generator: GeneratorOptions) -> dict[str, float]:
    """The highest ``accuracy`` that a model of generated reviews can expect; empty for real reviews.

    Exact for the test reviews: the mean of their posterior probabilities (:func:`.simulator.bayes_accuracy`).
    """
    return {"accuracy": bayes_accuracy(generator)} if source == GENERATED else {}


def acquire_corpus(source: str) -> pl.DataFrame:
    """Fetch your own corpus from the address ``source``: columns ``path`` and ``content`` (verbatim)."""
    return corpus.read_files(find_source(source))


def read_documents(raw: pl.DataFrame, reading: DocumentOptions, classes: Classes) -> pl.DataFrame:
    """Decode every document: columns ``document_id``, ``text``, ``label``, ``split``.

    What cannot be read, a label that is none of the classes, and a class without a training document are a DataError.
    """
    documents = check_classes(corpus.read_documents(raw, reading), list(classes))
    shared = count_shared_texts(documents)
    if shared:
        logger.info("%s test documents have the same text as a training or unlabelled one", f"{shared:,}")
    return documents
