"""Read and check the documents of a source before the learner uses them: columns, splits, labels, classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import narwhals as nw
import polars as pl

from embedline.errors import DataError, input_name
from embedline.frames.checks import open_frame, require_exact, settle_objects
from embedline.pipelines.text.splits import TEST, TRAIN, UNLABELLED

logger = logging.getLogger(__name__)

COLUMNS = ("document_id", "text", "label", "split")


def read_documents(data: Any, classes: Sequence[str] | None = None) -> pl.DataFrame:
    """Convert the frame ``<source>.documents``, of any engine, to a Polars frame of :data:`COLUMNS`, all String.

    Integers, booleans and categories become text.

    Args:
        classes: see :func:`check_classes`; None: the labels are not checked against them.

    Raises:
        DataError: names the column and the row, counted from 1: a column is missing or has another type, an id repeats,
            a text is missing, a split is not train, test or unlabelled, a train or test row has no label; and the
            errors of :func:`check_classes`.
    """
    frame = open_frame(data)
    if "part" in frame.columns and "split" not in frame.columns:
        raise DataError("the documents have a column 'part' and no column 'split': rename 'part' to 'split'")
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(f"the documents have no column {', '.join(map(repr, missing))}; they have {frame.columns}")
    frame = settle_objects(frame.select(*COLUMNS), COLUMNS)
    documents = pl.DataFrame([_as_text(frame.get_column(name)) for name in COLUMNS])
    document_id, text, label, split = (documents[name] for name in COLUMNS)
    faults = {
        "column 'document_id' holds no id": document_id.is_null(),
        "column 'document_id' holds an id that another row has": document_id.is_duplicated(),
        "column 'text' holds no text (an empty one is an empty string)": text.is_null(),
        f"column 'split' holds none of {TRAIN}, {TEST}, {UNLABELLED}": ~split.is_in([TRAIN, TEST, UNLABELLED]),
        f"column 'label' holds no label, which the splits {TRAIN} and {TEST} need": label.is_null()
        & (split != UNLABELLED),
        f"column 'label' holds a label, which the split {UNLABELLED} must not have": ~label.is_null()
        & (split == UNLABELLED),
    }
    for fault, is_faulty in faults.items():
        rows = is_faulty.fill_null(True).arg_true()
        if len(rows):
            name = f"document {document_id[rows[0]]!r}"
            raise DataError(f"{fault}: row {rows[0] + 1} ({name}), and {len(rows) - 1:,} more")
    return documents if classes is None else check_classes(documents, classes)


def _as_text(values: nw.Series[Any]) -> pl.Series:
    """Convert a column to String; integers that pandas holds as floats, because some are missing, become integers."""
    name = values.name
    column = values.to_polars()
    if column.dtype.is_float() and ((column % 1 == 0) | column.is_null() | column.is_nan()).all():
        require_exact(values, name, "the documents' contract")
        column = column.fill_nan(None).cast(pl.Int64)
    if column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null):
        return column.cast(pl.String).alias(name)
    raise DataError(f"column {name!r} has the type {column.dtype} instead of String: store it as text")


def check_classes(documents: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """Return the documents unchanged if a classifier of these classes can be trained and evaluated on them.

    A class with a single training document passes with a warning: the validation split has no document of it.

    Args:
        documents: ``document_id``, ``text``, ``label`` and ``split``, String, see `DocumentsContract`.
        classes: the labels in the order of the model's outputs. Empty: documents for a language model only.

    Raises:
        DataError: a column is missing; a class is listed twice or is the only one; a label is not among the classes; a
            class has no training document; the split test is empty.
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
        if not (documents["split"] == TEST).any():
            raise DataError("no document is in the split test: name it in splits, or hold some out with test_fraction")
    return documents


def count_shared_texts(documents: pl.DataFrame) -> int:
    """Count the test documents whose text, stripped, is also the text of a training or unlabelled document."""
    texts = documents.select("split", text=pl.col("text").str.strip_chars())
    learned = texts.filter(pl.col("split") != TEST).select("text").unique()
    return len(texts.filter(pl.col("split") == TEST).join(learned, on="text", how="semi"))


def _require_declared(documents: pl.DataFrame, classes: Sequence[str]) -> None:
    label = pl.col("label")
    unknown = documents.filter(label.is_not_null() & ~label.is_in(list(classes)))
    if len(unknown):
        first = unknown.row(0, named=True)
        others = f", as {len(unknown) - 1:,} more of such labels" if len(unknown) > 1 else ""
        listed = ", ".join(classes) or "(none)"
        raise DataError(
            f"the document {first['document_id']!r} has the label {first['label']!r}{others}; "
            f"{input_name('classes')} lists {listed}"
        )


def _require_training(documents: pl.DataFrame, classes: Sequence[str]) -> None:
    counts = dict(documents.filter(pl.col("split") == TRAIN).group_by("label").len().rows())
    if empty := [label for label in classes if not counts.get(label)]:
        raise DataError(f"no training document has the label {', '.join(map(repr, empty))}, which classes lists")
    for label in classes:
        if counts[label] == 1:
            logger.warning("The class %r has a single training document", label)
