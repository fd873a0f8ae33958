"""What a group's flags are on the days around a row, and runs of a flag."""

from collections.abc import Sequence

import narwhals as nw
from narwhals.typing import FrameT

_PACKED, _SHIFTED, _FOUND = "_packed", "_shifted", "_found"


def add_neighbours(frame: FrameT, flags: Sequence[str], *, offsets: dict[int, str], day: str, group: str) -> FrameT:
    """Add each flag's value some days later or earlier: ``<flag><suffix>``, 0 or 1, for each of ``offsets``.

    Parameters
    ----------
    flags : columns of 0 and 1 without missing values
    offsets : suffix of the new columns by the distance in days, such as ``{-1: "Yesterday", 1: "Tomorrow"}``
    day : integer day number; ``group`` has at most one row a day

    The value, a Float32, is missing where the group has no row on that very day (pandas has no integer for that). All
    flags travel in one integer together with the day number, so that the windows are as many whatever the flags.
    """
    base = 2 ** len(flags)
    packed = nw.col(day).cast(nw.Int64) * base
    for bit, flag in enumerate(flags):
        packed = packed + nw.col(flag).cast(nw.Int64) * 2**bit
    rows = frame.with_columns(packed.alias(_PACKED))
    for offset, suffix in offsets.items():
        # The row `offset` days away is at most as many rows away, nearer where days between have no row.
        wanted = nw.col(day).cast(nw.Int64) + offset
        steps = range(1, abs(offset) + 1) if offset > 0 else range(-1, offset - 1, -1)
        names = {step: f"{_SHIFTED}{abs(step)}" for step in steps}
        rows = rows.with_columns(
            nw.col(_PACKED).shift(-step).over(group, order_by=day).alias(name) for step, name in names.items()
        )
        found = nw.coalesce(*(nw.when(nw.col(name) // base == wanted).then(nw.col(name)) for name in names.values()))
        rows = rows.with_columns(found.alias(_FOUND))
        rows = rows.with_columns(
            (nw.col(_FOUND) // 2**bit % 2).cast(nw.Float32).alias(f"{flag}{suffix}") for bit, flag in enumerate(flags)
        ).drop(_FOUND, *names.values())
    return rows.drop(_PACKED)


def day_of_run(starts: nw.Expr, inside: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days since the latest row with ``starts`` true, counted from 1, where ``inside`` is true, else 0, as Int16."""
    # Under the name of the day column, Narwhals on pandas would order the window by these masked days: hence the alias.
    start = nw.when(starts).then(nw.col(day)).alias("_start_day")
    since = nw.col(day) - start.fill_null(strategy="forward").over(group, order_by=day) + 1
    return nw.when(inside).then(since).otherwise(nw.lit(0)).cast(nw.Int16)
