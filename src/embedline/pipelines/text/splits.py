"""Split the training documents into train and validation, with the same fraction of each class."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from embedline.errors import DataError

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
SPLITS = (TRAIN, VALIDATION, TEST, UNLABELLED)


class SplitOptions(BaseModel):
    """``validation``: fraction of the training documents that becomes the split ``validation``, drawn with ``seed``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(default=0.1, gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


def assign_splits(frame: pl.DataFrame, split: SplitOptions) -> pl.Series:
    """Return the split of each row: ``train``, ``validation``, ``test`` or ``unlabelled``.

    Of the N training documents, ``round(validation * N)`` become validation documents. They are divided over the
    classes by the largest remainder, with at least one document of each class in each split (many tiny classes may
    raise the total a little). The draw depends on the ids and the seed, not on the order of the rows. Test documents
    stay test documents.

    Args:
        frame: ``document_id``, ``label`` and ``split``.

    Raises:
        DataError: if an id repeats, a split is unknown, a training document has no label, a class has fewer than two
            training documents, or the fraction leaves no document for validation or for training.
    """
    _check(frame)
    train = frame.with_row_index("_row").filter(pl.col("split") == TRAIN).sort("label", "document_id")
    classes = train.group_by("label", maintain_order=True).agg("_row")
    counts = [len(rows) for rows in classes["_row"]]
    if not counts:
        raise DataError(f"no document is in the split {TRAIN!r}: there is nothing to train on")
    for label, count in zip(classes["label"], counts, strict=True):
        if count < 2:
            raise DataError(
                f"class {label!r} has {count} training document: it needs two, one for training, one for validation"
            )
    held_out = _held_out_counts(counts, split.validation)
    generator = np.random.default_rng(split.seed)
    splits = frame["split"].to_numpy().astype(object)
    for rows, count in zip(classes["_row"], held_out, strict=True):
        splits[generator.permutation(rows.to_numpy())[:count]] = VALIDATION
    return pl.Series("split", splits.tolist(), pl.String)


def _check(frame: pl.DataFrame) -> None:
    repeated = frame.filter(pl.col("document_id").is_duplicated())
    if len(repeated):
        name = repeated["document_id"][0]
        raise DataError(f"document {name!r} occurs {frame['document_id'].eq(name).sum()} times; it may occur once")
    unknown = frame.filter(~pl.col("split").is_in([TRAIN, TEST, UNLABELLED]) | pl.col("split").is_null())
    if len(unknown):
        row = unknown.row(0, named=True)
        raise DataError(
            f"document {row['document_id']!r} has the split {row['split']!r}; it must be train, test or unlabelled"
        )
    bare = frame.filter((pl.col("split") == TRAIN) & pl.col("label").is_null())
    if len(bare):
        raise DataError(f"document {bare['document_id'][0]!r} is in the split {TRAIN!r} and has no label")


def _held_out_counts(counts: Sequence[int], fraction: float) -> list[int]:
    """Return the number of validation documents of each class, given its number of training documents."""
    total = round(fraction * sum(counts))
    if not 0 < total < sum(counts):
        purpose = "validation" if total == 0 else "training"
        raise DataError(f"split.validation {fraction} of {sum(counts)} training documents leaves none for {purpose}")
    exact = [fraction * count for count in counts]
    found = [int(number) for number in exact]
    by_remainder = sorted(range(len(counts)), key=lambda place: (found[place] - exact[place], place))
    for place in by_remainder[: total - sum(found)]:
        found[place] += 1
    return [min(max(number, 1), count - 1) for number, count in zip(found, counts, strict=True)]
