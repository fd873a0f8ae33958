"""Which labelled documents validate: a fraction of the training part, the same share of every class."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from embedline.errors import DataError

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
PARTS = (TRAIN, VALIDATION, TEST, UNLABELLED)


class SplitOptions(BaseModel):
    """``validation`` is the fraction of the part ``train`` that is held out, drawn with ``seed``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: float = Field(default=0.1, gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


def assign_splits(frame: pl.DataFrame, split: SplitOptions) -> pl.Series:
    """The part of every row: ``train``, ``validation``, ``test`` or ``unlabelled``.

    ``round(validation * N)`` of the N training documents validate, shared out over the classes by the largest
    remainder, at least one of each class on either side (with many tiny classes this may be a few more). The draw
    depends on the ids and the seed, not on the order of the rows. The test part is never touched.

    Args:
        frame: ``document_id``, ``label`` and ``split``.

    Raises:
        DataError: if an id occurs twice, a part is not known, a training document has no label, a class has fewer
            than two training documents, or the fraction leaves no document to validate or to train.
    """
    _check(frame)
    train = frame.with_row_index("_row").filter(pl.col("split") == TRAIN).sort("label", "document_id")
    classes = train.group_by("label", maintain_order=True).agg("_row")
    counts = [len(rows) for rows in classes["_row"]]
    if not counts:
        raise DataError(f"no document has the part {TRAIN!r}: there is nothing to train on")
    for label, count in zip(classes["label"], counts, strict=True):
        if count < 2:
            raise DataError(
                f"class {label!r} has {count} training document: it takes two, one to train, one to validate"
            )
    held_out = _shares(counts, split.validation)
    generator = np.random.default_rng(split.seed)
    parts = frame["split"].to_numpy().astype(object)
    for rows, share in zip(classes["_row"], held_out, strict=True):
        parts[generator.permutation(rows.to_numpy())[:share]] = VALIDATION
    return pl.Series("split", parts.tolist(), pl.String)


def _check(frame: pl.DataFrame) -> None:
    repeated = frame.filter(pl.col("document_id").is_duplicated())
    if len(repeated):
        name = repeated["document_id"][0]
        raise DataError(f"document {name!r} occurs {frame['document_id'].eq(name).sum()} times; it may occur once")
    unknown = frame.filter(~pl.col("split").is_in([TRAIN, TEST, UNLABELLED]) | pl.col("split").is_null())
    if len(unknown):
        row = unknown.row(0, named=True)
        raise DataError(
            f"document {row['document_id']!r} has the part {row['split']!r}; it must be train, test or unlabelled"
        )
    bare = frame.filter((pl.col("split") == TRAIN) & pl.col("label").is_null())
    if len(bare):
        raise DataError(f"document {bare['document_id'][0]!r} is in the part {TRAIN!r} and has no label")


def _shares(counts: Sequence[int], fraction: float) -> list[int]:
    """How many documents of each class validate."""
    total = round(fraction * sum(counts))
    if not 0 < total < sum(counts):
        left = "validate" if total == 0 else "train"
        raise DataError(f"split.validation {fraction} of {sum(counts)} training documents leaves none to {left}")
    exact = [fraction * count for count in counts]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda number: (shares[number] - exact[number], number))
    for number in by_remainder[: total - sum(shares)]:
        shares[number] += 1
    return [min(max(share, 1), count - 1) for share, count in zip(shares, counts, strict=True)]
