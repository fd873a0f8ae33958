"""What a group's flags are on the days around a row, and runs of a flag."""

from collections.abc import Sequence

import narwhals as nw
from narwhals.typing import FrameT

_PACKED, _SHIFTED = "_packed", "_shifted"


def add_neighbours(frame: FrameT, flags: Sequence[str], *, offsets: dict[int, str], day: str, group: str) -> FrameT:
    """Add each flag's value some days later or earlier: ``<flag><suffix>`` as Int8, 0 or 1, for each of ``offsets``.

    Parameters
    ----------
    flags : columns of 0 and 1 without missing values
    offsets : suffix of the new columns by the distance in days, such as ``{-1: "Yesterday", 1: "Tomorrow"}``
    day : integer day number; ``group`` has at most one row a day

    The value is missing where the group has no row on that very day. All flags travel in one integer together with the
    day number, so that an offset costs one window, whatever the number of flags.
    """
    base = 2 ** len(flags)
    packed = nw.col(day).cast(nw.Int64) * base
    for bit, flag in enumerate(flags):
        packed = packed + nw.col(flag).cast(nw.Int64) * 2**bit
    rows = frame.with_columns(packed.alias(_PACKED))
    for offset, suffix in offsets.items():
        # Rows of other days may lie between: the row `offset` rows away need not be `offset` days away, nor need any.
        shifted = nw.col(_PACKED).shift(-offset).over(group, order_by=day)
        rows = rows.with_columns(shifted.alias(_SHIFTED))
        found = nw.col(_SHIFTED) // base == nw.col(day).cast(nw.Int64) + offset
        rows = rows.with_columns(
            nw.when(found).then(nw.col(_SHIFTED) // 2**bit % 2).cast(nw.Int8).alias(f"{flag}{suffix}")
            for bit, flag in enumerate(flags)
        )
    return rows.drop(_PACKED, _SHIFTED)


def day_of_run(starts: nw.Expr, inside: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days since the latest row with ``starts`` true, counted from 1, where ``inside`` is true, else 0, as Int16."""
    # Under the name of the day column, Narwhals on pandas would order the window by these masked days: hence the alias.
    start = nw.when(starts).then(nw.col(day)).alias("_start_day")
    since = nw.col(day) - start.fill_null(strategy="forward").over(group, order_by=day) + 1
    return nw.when(inside).then(since).otherwise(nw.lit(0)).cast(nw.Int16)
