"""Hold ratings out: at random, the latest of each user, or by a column."""

from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import read_ratings, require_columns, time_column
from embedline.pipelines.ratings.options import SPLIT_COLUMN, TEST, TRAIN, RatingColumns, RatingSplit

SPLITS = pl.Enum([TRAIN, TEST])


def assign_splits(ratings: Any, columns: RatingColumns, split: RatingSplit) -> nw.DataFrame[Any]:
    """Add the column ``split``, ``train`` or ``test``, to ratings of any backend.

    Returns:
        A Polars frame (in Narwhals) of the rows in their order, without ratings that a later one of the same user and
        item replaces: ids as integers or strings, the rating as Float32,
        every other column as it was, and ``split``, a Polars Enum of one byte a row.

    Raises:
        DataError: if a column is missing or has a wrong type, or if one of the two splits is empty.
    """
    rows = read_ratings(ratings, columns, split.columns)
    held_out = _held_out(rows, columns, split)
    wanted = {TRAIN: len(rows) - int(held_out.sum())}
    if split.kind != "none":
        wanted[TEST] = int(held_out.sum())
    for name, count in wanted.items():
        if not count:
            raise DataError(f"the split {split.model_dump(exclude_defaults=True)} leaves no rating to {name}")
    return nw.from_native(rows.with_columns(held_out.cast(pl.UInt8).cat.to(SPLITS).alias(SPLIT_COLUMN)))


def subset(rows: pl.DataFrame, split: str) -> pl.DataFrame:
    """The rows whose column ``split`` is ``split``: ``train`` or ``test``."""
    column = pl.col(SPLIT_COLUMN)
    return rows.filter((column if rows.schema[SPLIT_COLUMN] == SPLITS else column.cast(pl.String)) == split)


def _held_out(rows: pl.DataFrame, columns: RatingColumns, split: RatingSplit) -> pl.Series:
    """Whether each row is held out, Boolean [N]."""
    if split.kind == "random":
        assert split.fraction is not None  # RatingSplit saw to it
        return pl.Series(np.random.default_rng(split.seed).random(len(rows)) < split.fraction)
    if split.kind == "latest":
        return _latest(rows, columns, split)
    if split.kind == "column":
        return _matching(rows, split)
    return pl.repeat(False, len(rows), eager=True)


def _latest(rows: pl.DataFrame, columns: RatingColumns, split: RatingSplit) -> pl.Series:
    """The last ratings of each user; of equal times, the lower row counts as the later one."""
    key = columns.timestamp
    if key is None:
        raise DataError("split.kind 'latest' needs columns.timestamp, which is null")
    require_columns(rows, [key], what="the ratings frame", key="columns.timestamp")
    times = time_column(rows, key)
    if missing := times.null_count():
        raise DataError(
            f"split.kind 'latest' needs a time for every rating: column {key!r} has none in {missing:,}"
            f" row(s), first in row {times.is_null().arg_true()[0] + 1}"
        )
    count = pl.len().over(columns.user).cast(pl.Int64)
    wanted = pl.lit(split.n) if split.n is not None else (count * split.fraction).round().cast(pl.Int64)
    place = pl.col(key).rank("ordinal").over(columns.user).cast(pl.Int64)  # 1 is the earliest
    return rows.select(place > count - pl.min_horizontal(wanted, count - 1)).to_series()


def _matching(rows: pl.DataFrame, split: RatingSplit) -> pl.Series:
    column, value = str(split.column), split.value
    require_columns(rows, [column], what="the ratings frame", key="split.column")
    dtype = rows.schema[column]
    text = dtype == pl.String or isinstance(dtype, (pl.Categorical, pl.Enum))
    fits = {bool: dtype == pl.Boolean, int: dtype.is_numeric(), str: text}[type(value)]
    if not fits:
        raise DataError(f"split.value {value!r} is not of the type of column {column!r}, {dtype}")
    return rows.select((pl.col(column) == pl.lit(value)).fill_null(False)).to_series()
