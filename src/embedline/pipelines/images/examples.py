"""The pictures of a source: the frame that the learner reads, its checks, its classes and the split of its rows."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from embedline.errors import DataError
from embedline.training.options import Options

logger = logging.getLogger(__name__)

ID = "image_id"
TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
SPLITS = (TRAIN, TEST, UNLABELLED)  # of the canonical frame

Classes = Mapping[str, Sequence[str]]
"""Classes of each target, in the order of the model's outputs."""


class SplitOptions(Options):
    """``validation``: fraction of the training pictures that becomes the split ``validation``, drawn with ``seed``."""

    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


def read_images(data: Any, targets: Sequence[str]) -> pl.DataFrame:
    """Convert the frame ``<source>.images``, of any engine, to Polars: ``image_id``, ``path``, ``split``, the targets.

    Pictures without labels (``unlabelled``) are left out.

    Raises:
        DataError: names the column and the picture: a column is missing or holds no text, an id repeats, a split is
            none of :data:`SPLITS`, a label is missing.
    """
    frame = nw.from_native(data, eager_only=True).to_polars()
    columns = (ID, "path", "split", *targets)
    if missing := [name for name in columns if name not in frame.columns]:
        raise DataError(f"the images have no column {', '.join(map(repr, missing))}; they have {frame.columns}")
    if wrong := [name for name in columns if not (frame.schema[name] == pl.String or frame.schema[name].is_integer())]:
        raise DataError(f"column {wrong[0]!r} of the images holds {frame.schema[wrong[0]]}, not text")
    images = frame.select(pl.col(name).cast(pl.String) for name in columns)
    faults = {
        "has an id that another row has": pl.col(ID).is_duplicated() | pl.col(ID).is_null(),
        f"has a split that is none of {', '.join(SPLITS)}": ~pl.col("split").is_in(SPLITS).fill_null(False),
        **{
            f"has no label in column {name!r}": pl.col(name).is_null() & (pl.col("split") != UNLABELLED)
            for name in targets
        },
    }
    for fault, is_faulty in faults.items():
        if len(rows := images.filter(is_faulty)):
            raise DataError(f"the picture {rows[ID][0]!r} {fault}, and {len(rows) - 1:,} more")
    return images.filter(pl.col("split") != UNLABELLED)


def fit_classes(images: pl.DataFrame, targets: Sequence[str]) -> dict[str, list[str]]:
    """The classes of each target: the labels of its training pictures, sorted.

    Raises:
        DataError: a target has fewer than two classes, a test picture has a class that no training picture has, or
            one of the splits is empty.
    """
    for split in (TRAIN, TEST):
        if not (images["split"] == split).any():
            hint = "" if split == TRAIN else ": set reading.test_fraction, or name the folder in reading.splits"
            raise DataError(f"no picture is in the split {split}{hint}")
    classes = {}
    for target in targets:
        train = images.filter(pl.col("split") == TRAIN)[target]
        classes[target] = sorted(train.unique())
        if len(classes[target]) < 2:
            raise DataError(f"target {target!r} has the class {classes[target][0]!r} alone; a classifier needs two")
        unknown = images.filter(~pl.col(target).is_in(classes[target]))
        if len(unknown):
            raise DataError(
                f"the test picture {unknown[ID][0]!r} has {target} {unknown[target][0]!r}, which no training picture "
                f"has, as {len(unknown) - 1:,} more"
            )
        for name, count in train.value_counts().sort(target).iter_rows():
            if count == 1:
                logger.warning("The class %r of %s has a single training picture", name, target)
    return classes


def assign_splits(images: pl.DataFrame, split: SplitOptions, target: str) -> pl.DataFrame:
    """Move a fraction of the training pictures of each class of ``target`` to the split ``validation``.

    A class with one picture keeps it. The draw depends on the ids and the seed, not on the order of the rows.
    """
    splits, random = images["split"].to_numpy().astype(object), np.random.default_rng(split.seed)
    train = images.with_row_index("row").filter(pl.col("split") == TRAIN).sort(target, ID)
    for rows in train.group_by(target, maintain_order=True).agg("row")["row"]:
        count = min(round(split.validation * len(rows)), len(rows) - 1)
        splits[random.permutation(rows.to_numpy())[:count]] = VALIDATION
    return images.with_columns(pl.Series("split", splits.tolist(), pl.String))


def class_codes(images: pl.DataFrame, classes: Classes) -> NDArray[np.int64]:
    """Index of each picture's class of each target, int64 [N, T]; one that is not among the classes is a DataError."""
    codes = np.empty((len(images), len(classes)), np.int64)
    for place, (target, names) in enumerate(classes.items()):
        numbers = {name: k for k, name in enumerate(names)}
        found = [numbers.get(label, -1) for label in images[target]]
        if -1 in found:
            row = found.index(-1)
            raise DataError(
                f"the picture {images[ID][row]!r} has {target} {images[target][row]!r}, which is none of {list(names)}"
            )
        codes[:, place] = found
    return codes
