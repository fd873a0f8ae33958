"""The documents of a source: the frame that the learner reads, its checks, and the split of the training documents."""

import logging
from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from embedline.errors import DataError, input_name
from embedline.frames.checks import open_frame, require_exact, settle_objects
from embedline.training.options import Options

logger = logging.getLogger(__name__)

COLUMNS = ("document_id", "text", "label", "split")
TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
SPLITS = (TRAIN, VALIDATION, TEST, UNLABELLED)


class SplitOptions(Options):
    """``validation``: fraction of the training documents that becomes the split ``validation``, drawn with ``seed``.

    0: none; then early stopping has nothing to measure, and the baseline is tuned by cross-validation.
    """

    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


def read_documents(data: Any, classes: Sequence[str] | None = None) -> pl.DataFrame:
    """Convert the frame ``<source>.documents``, of any engine, to a Polars frame of :data:`COLUMNS`, all String.

    Integers, booleans and categories become text. With ``classes``, the labels are checked by :func:`check_classes`.

    Raises:
        DataError: names the column and the row, counted from 1: a column is missing or has another type, an id repeats,
            a text is missing, a split is not train, test or unlabelled, a train or test row has no label.
    """
    frame = open_frame(data)
    if "part" in frame.columns and "split" not in frame.columns:
        raise DataError("the documents have a column 'part' and no column 'split': rename 'part' to 'split'")
    _require_columns(frame.columns)
    frame = settle_objects(frame.select(*COLUMNS), COLUMNS)
    documents = pl.DataFrame([_as_text(frame.get_column(name)) for name in COLUMNS])
    document_id, text, label, split = (documents[name] for name in COLUMNS)
    is_unlabelled = split == UNLABELLED
    faults = {
        "column 'document_id' holds no id": document_id.is_null(),
        "column 'document_id' holds an id that another row has": document_id.is_duplicated(),
        "column 'text' holds no text (an empty one is an empty string)": text.is_null(),
        f"column 'split' holds none of {TRAIN}, {TEST}, {UNLABELLED}": ~split.is_in([TRAIN, TEST, UNLABELLED]),
        f"column 'label' holds no label, which the splits {TRAIN} and {TEST} need": label.is_null() & ~is_unlabelled,
        f"column 'label' holds a label, which the split {UNLABELLED} must not have": ~label.is_null() & is_unlabelled,
    }
    for fault, is_faulty in faults.items():
        rows = is_faulty.fill_null(True).arg_true()
        if len(rows):
            name = f"document {document_id[rows[0]]!r}"
            raise DataError(f"{fault}: row {rows[0] + 1} ({name}), and {len(rows) - 1:,} more")
    return documents if classes is None else check_classes(documents, classes)


def _require_columns(columns: Sequence[str]) -> None:
    if missing := [name for name in COLUMNS if name not in columns]:
        raise DataError(f"the documents have no column {', '.join(map(repr, missing))}; they have {columns}")


def _as_text(values: nw.Series[Any]) -> pl.Series:
    """Convert a column to String; integers that pandas holds as floats, because some are missing, become integers."""
    name, column = values.name, values.to_polars()
    if column.dtype.is_float() and ((column % 1 == 0) | column.is_null() | column.is_nan()).all():
        require_exact(values, name, "the documents' contract")
        column = column.fill_nan(None).cast(pl.Int64)
    if column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null):
        return column.cast(pl.String).alias(name)
    raise DataError(f"column {name!r} has the type {column.dtype} instead of String: store it as text")


def check_classes(documents: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """Return the documents of :data:`COLUMNS` unchanged if a classifier of these classes can be trained on them.

    Without classes the documents are for a language model only. A class with one training document gets a warning.

    Raises:
        DataError: a column is missing; a class is listed twice or is the only one; a label is not among the classes; a
            class has no training document; the split test is empty.
    """
    _require_columns(documents.columns)
    if repeated := sorted({label for label in classes if list(classes).count(label) > 1}):
        raise DataError(f"classes lists {', '.join(map(repr, repeated))} more than once")
    if len(classes) == 1:
        raise DataError(f"classes lists {classes[0]!r} alone; a classifier needs two (none: for a language model only)")
    unknown = documents.filter(pl.col("label").is_not_null() & ~pl.col("label").is_in(list(classes)))
    if len(unknown):
        first = unknown.row(0, named=True)
        others = f", as {len(unknown) - 1:,} more of such labels" if len(unknown) > 1 else ""
        raise DataError(
            f"the document {first['document_id']!r} has the label {first['label']!r}{others}; "
            f"{input_name('classes')} lists {', '.join(classes) or '(none)'}"
        )
    counts = dict(documents.filter(pl.col("split") == TRAIN).group_by("label").len().rows())
    if empty := [label for label in classes if not counts.get(label)]:
        raise DataError(f"no training document has the label {', '.join(map(repr, empty))}, which classes lists")
    for label in classes:
        if counts[label] == 1:
            logger.warning("The class %r has a single training document", label)
    if classes and not (documents["split"] == TEST).any():
        raise DataError("no document is in the split test: name it in splits, or hold some out with test_fraction")
    return documents


def count_shared_texts(documents: pl.DataFrame) -> int:
    """Count the test documents whose text, stripped, is also the text of a training or unlabelled document."""
    texts = documents.select("split", text=pl.col("text").str.strip_chars())
    learned = texts.filter(pl.col("split") != TEST)
    return len(texts.filter(pl.col("split") == TEST).join(learned, on="text", how="semi"))


def assign_splits(frame: pl.DataFrame, split: SplitOptions) -> pl.Series:
    """Return the split of each row: ``train``, ``validation``, ``test`` or ``unlabelled``.

    Of the N training documents, ``round(validation * N)`` become validation documents; of the unlabelled ones, where
    there is no training document (a corpus for a language model). They are divided over the classes by the largest
    remainder, with at least one document of each class in each split (many tiny classes may raise the total a little).
    The draw depends on the ids and the seed, not on the order of the rows. Test documents stay test documents.

    ``document_id``, ``label`` and ``split`` are as :func:`read_documents` checks them. No document to train on, a class
    with fewer than two, and a fraction above 0 that leaves no document for validation or for training are a DataError.
    """
    learned = TRAIN if (frame["split"] == TRAIN).any() else UNLABELLED
    train = frame.with_row_index("_row").filter(pl.col("split") == learned).sort("label", "document_id")
    if train.is_empty():
        raise DataError(f"no document is in the split {TRAIN!r} or {UNLABELLED!r}: there is nothing to train on")
    if split.validation == 0.0:
        return frame["split"]
    classes = train.group_by("label", maintain_order=True).agg("_row")
    counts = classes["_row"].list.len().to_list()
    if few := [(label, count) for label, count in zip(classes["label"], counts, strict=True) if count < 2]:
        label, count = few[0]
        if label is None:
            raise DataError("a single document is in the split 'unlabelled', and validation and training need one each")
        needed = "it needs two, one for training, one for validation"
        raise DataError(f"class {label!r} has {count} training document: {needed}")
    generator = np.random.default_rng(split.seed)
    splits = frame["split"].to_numpy().astype(object)
    for rows, count in zip(classes["_row"], _validation_counts(counts, split.validation), strict=True):
        splits[generator.permutation(rows.to_numpy())[:count]] = VALIDATION
    return pl.Series("split", splits.tolist(), pl.String)


def stratified_folds(classes: NDArray[np.integer], n_folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Number of the fold of each document, int64 [N]: class by class in a random order, dealt out one by one."""
    order = np.lexsort((np.random.default_rng(seed).random(len(classes)), classes))
    folds = np.empty(len(classes), dtype=np.int64)
    folds[order] = np.arange(len(classes)) % n_folds
    return folds


def _validation_counts(counts: Sequence[int], fraction: float) -> list[int]:
    """Return the number of validation documents of each class, given its number of training documents."""
    total = round(fraction * sum(counts))
    if not 0 < total < sum(counts):
        purpose = "validation" if total == 0 else "training"
        raise DataError(f"split.validation {fraction} of {sum(counts)} training documents leaves none for {purpose}")
    exact = fraction * np.array(counts)
    found = exact.astype(int)
    found[np.argsort(found - exact, kind="stable")[: total - found.sum()]] += 1
    return [min(max(number, 1), count - 1) for number, count in zip(found.tolist(), counts, strict=True)]
