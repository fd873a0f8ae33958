"""From the files of a corpus to its canonical frame: a row a document."""

import logging

import polars as pl

from embedline.paths import find_source
from embedline.pipelines.text.documents import check_classes, count_shared_texts
from embedline.pipelines.text.options import Classes
from embedline.sources.document_layouts import read_documents as read
from embedline.sources.document_options import DocumentOptions
from embedline.sources.imdb_files import acquire_files, read_files
from embedline.sources.imdb_generator import GeneratorOptions

logger = logging.getLogger(__name__)


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> pl.DataFrame:
    """Fetch the reviews from the address ``source``, or generate them: columns ``path`` and ``content`` (verbatim)."""
    return acquire_files(find_source(source), verify=verify, generator=generator)


def acquire_corpus(source: str) -> pl.DataFrame:
    """Fetch your own corpus from the address ``source``: columns ``path`` and ``content`` (verbatim)."""
    return read_files(find_source(source))


def read_documents(raw: pl.DataFrame, reading: DocumentOptions, classes: Classes) -> pl.DataFrame:
    """Decode every document: columns ``document_id``, ``text``, ``label``, ``split``.

    Raises:
        DataError: a file or row cannot be read, a label is not among the classes, or a class has no training document.
    """
    documents = check_classes(read(raw, reading), list(classes))
    shared = count_shared_texts(documents)
    if shared:
        logger.info("%s test documents have the same text as a training or unlabelled one", f"{shared:,}")
    return documents
