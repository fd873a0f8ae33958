"""What the learner asks of documents: labels that are among the classes, and something to learn each class from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import polars as pl

from embedline.errors import DataError

logger = logging.getLogger(__name__)

TRAIN, TEST, UNLABELLED = "train", "test", "unlabelled"
COLUMNS = ("document_id", "text", "label", "part")


def check_classes(documents: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """Return the documents unchanged if a classifier of these classes can be trained and evaluated on them.

    A class with a single training document passes with a warning: it is learned from that one, and the part that is
    held out of the training documents has none of it.

    Args:
        documents: ``document_id``, ``text``, ``label`` and ``part``, String, see `DocumentsContract`.
        classes: the labels in the order of the model's outputs. None at all: documents for a language model alone.

    Raises:
        DataError: a column is missing; a class is listed twice or is the only one; a label is not among the classes; a
            class has no training document; the part test is empty.
    """
    if missing := [name for name in COLUMNS if name not in documents.columns]:
        raise DataError(f"the documents have no column {', '.join(map(repr, missing))}; they have {documents.columns}")
    if repeated := sorted({label for label in classes if list(classes).count(label) > 1}):
        raise DataError(f"classes lists {', '.join(map(repr, repeated))} more than once")
    if len(classes) == 1:
        raise DataError(f"classes lists {classes[0]!r} alone; a classifier needs two (none: for a language model only)")
    _require_declared(documents, classes)
    if classes:
        _require_training(documents, classes)
        if not (documents["part"] == TEST).any():
            raise DataError("no document is in the part test: name it in parts, or hold some out with test_fraction")
    return documents


def count_shared_texts(documents: pl.DataFrame) -> int:
    """Return how many test documents have exactly the text of a training or unlabelled one, white space aside."""
    texts = documents.select("part", text=pl.col("text").str.strip_chars())
    learned = texts.filter(pl.col("part") != TEST).select("text").unique()
    return len(texts.filter(pl.col("part") == TEST).join(learned, on="text", how="semi"))


def _require_declared(documents: pl.DataFrame, classes: Sequence[str]) -> None:
    label = pl.col("label")
    unknown = documents.filter(label.is_not_null() & ~label.is_in(list(classes)))
    if len(unknown):
        first = unknown.row(0, named=True)
        others = f", as {len(unknown) - 1:,} more of such labels" if len(unknown) > 1 else ""
        listed = ", ".join(classes) or "(none)"
        raise DataError(
            f"the document {first['document_id']!r} has the label {first['label']!r}{others}; classes lists {listed}"
        )


def _require_training(documents: pl.DataFrame, classes: Sequence[str]) -> None:
    counts = dict(documents.filter(pl.col("part") == TRAIN).group_by("label").len().rows())
    if empty := [label for label in classes if not counts.get(label)]:
        raise DataError(f"no training document has the label {', '.join(map(repr, empty))}, which classes lists")
    for label in classes:
        if counts[label] == 1:
            logger.warning("The class %r has a single training document", label)
