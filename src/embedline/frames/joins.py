"""Joins that neither multiply rows nor leave one without its partner, and the order of rows after them."""

from collections.abc import Sequence
from typing import Any

import narwhals as nw
from narwhals.typing import FrameT

from embedline.errors import DataError

_FOUND = "_found"


def lookup(
    frame: FrameT, table: FrameT, on: Sequence[str], *, name: str, table_name: str, show: Sequence[str] = ()
) -> FrameT:
    """Add the columns of ``table`` to every row of ``frame`` with the same key; rows keep their number.

    Parameters
    ----------
    on : the key columns, present in both
    name, table_name : what the two frames are called in messages
    show : the columns that stand for the key in messages, ``on`` when empty

    Raises
    ------
    DataError
        when a key occurs twice in ``table``, or a key of ``frame`` does not occur there.
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
    """Left join of two frames that both rise with ``key``, of which ``table`` has each value once.

    Frames in memory with the very same keys are put side by side, which copies nothing. Else, where Polars knows that
    its frames are sorted it merges them: 0.13 s for a million rows rather than 0.23 s.
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
    """The frame in the order of ``key``; one that is in memory and in order already is not copied.

    No engine promises the order of rows after a join.
    """
    if isinstance(frame, nw.DataFrame) and frame.get_column(key).is_sorted():
        return frame
    return frame.sort(key)


def describe_key(key: dict[str, Any]) -> str:
    """A key in words, ``Store 17, Date 2015-07-31``; times of day are left out."""
    return ", ".join(f"{name} {str(value).removesuffix(' 00:00:00')}" for name, value in key.items())
