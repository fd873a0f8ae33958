"""Joins that keep the number of rows and find a match for each, and the order of rows after joins."""

from collections.abc import Sequence
from typing import Any

import narwhals as nw
from narwhals.typing import FrameT

from embedline.errors import DataError

_FOUND = "_found"


def lookup(
    frame: FrameT, table: FrameT, on: Sequence[str], *, name: str, table_name: str, show: Sequence[str] = ()
) -> FrameT:
    """Add the columns of ``table`` to the rows of ``frame`` with the same key; the number of rows stays.

    Parameters
    ----------
    on : the key columns, present in both
    name, table_name : names of the two frames for messages
    show : the columns to show as the key in messages, ``on`` if empty

    Raises
    ------
    DataError
        when a key occurs twice in ``table``, or a key of ``frame`` has no match there.
    """
    require_unique(table, on, name=table_name)
    joined = frame.join(table.with_columns(nw.lit(True).alias(_FOUND)), on=list(on), how="left")
    lost = joined.select(nw.col(_FOUND).null_count()).lazy().collect().item()
    if lost:
        columns = list(show or on)
        first = joined.filter(nw.col(_FOUND).is_null()).select(columns).head(1).lazy().collect().rows(named=True)[0]
        raise DataError(f"{name}: {describe_key(first)} has no match in {table_name} ({lost} rows without one)")
    return joined.drop(_FOUND)


def require_unique(frame: FrameT, key: Sequence[str], *, name: str) -> None:
    """Raise a DataError that names the first of the keys that occur more than once in ``frame``."""
    counts = frame.group_by(*key).agg(nw.len().alias("_count"))
    repeated = counts.filter(nw.col("_count") > 1).sort(*key).head(1).lazy().collect().rows(named=True)
    if repeated:
        times = repeated[0].pop("_count")
        raise DataError(f"{name}: {describe_key(repeated[0])} occurs {times} times; it may occur once")


def join_sorted(frame: FrameT, table: FrameT, key: str) -> FrameT:
    """Left join of two frames that are sorted by ``key``, which is unique in ``table``.

    Frames in memory with equal keys are concatenated side by side without a copy. Otherwise Polars merges frames that
    are marked as sorted: 0.13 s for a million rows rather than 0.23 s.
    """
    if isinstance(frame, nw.DataFrame) and isinstance(table, nw.DataFrame) and len(frame) == len(table):
        if (frame.get_column(key) == table.get_column(key)).all():
            return nw.concat([frame, table.drop(key)], how="horizontal")
    return _marked_sorted(frame, key).join(_marked_sorted(table, key), on=[key], how="left")


def _marked_sorted(frame: FrameT, key: str) -> FrameT:
    if not (isinstance(frame, nw.DataFrame) and frame.implementation.is_polars() and frame.get_column(key).is_sorted()):
        return frame
    native = frame.to_native()
    return nw.from_native(native.with_columns(native.get_column(key).set_sorted()))


def sorted_by(frame: FrameT, key: str) -> FrameT:
    """The frame sorted by ``key``; a frame in memory that is sorted already is not copied.

    No dataframe backend guarantees the order of rows after a join.
    """
    if isinstance(frame, nw.DataFrame) and frame.get_column(key).is_sorted():
        return frame
    return frame.sort(key)


def describe_key(key: dict[str, Any]) -> str:
    """A key as text, ``Store 17, Date 2015-07-31``; times of day are left out."""
    return ", ".join(f"{name} {str(value).removesuffix(' 00:00:00')}" for name, value in key.items())
