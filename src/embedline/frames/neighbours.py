"""What a group's flags are on the days around a row, and runs of a flag."""

from collections.abc import Mapping, Sequence

import narwhals as nw
from narwhals.typing import FrameT

_PACKED, _SHIFTED, _FOUND = "_packed", "_shifted", "_found"


def add_neighbours(frame: FrameT, flags: Mapping[int, tuple[str, Sequence[str]]], *, day: str, group: str) -> FrameT:
    """Add the values of flags some days later or earlier, 0 or 1 as Float32.

    Parameters
    ----------
    flags : by the distance in days, the suffix of the new columns and the columns to look at (0 and 1, none missing),
        such as ``{-1: ("Yesterday", ["Open"]), 1: ("Tomorrow", ["Open", "Promo"])}``
    day : integer day number below 2**16; ``group`` has at most one row a day

    A value is missing where the group has no row on that very day (pandas has no integer for that). All flags travel in
    one integer together with the day number, so that the windows are as many whatever the flags.
    """
    names = list(dict.fromkeys(name for _, columns in flags.values() for name in columns))
    base = 2 ** len(names)
    packed = nw.col(day).cast(nw.Int32) * base
    for bit, name in enumerate(names):
        packed = packed + nw.col(name).cast(nw.Int32) * 2**bit
    # The row k days away is at most k rows away, nearer where days between have no row.
    steps = {step: f"{_SHIFTED}{step}" for k in flags for step in (range(1, k + 1) if k > 0 else range(k, 0))}
    rows = frame.with_columns(packed.alias(_PACKED))
    rows = rows.with_columns(
        nw.col(_PACKED).shift(-step).over(group, order_by=day).alias(name) for step, name in steps.items()
    )
    for offset, (suffix, columns) in flags.items():
        wanted = nw.col(day).cast(nw.Int32) + offset
        near = [nw.col(name) for step, name in steps.items() if step * offset > 0 and abs(step) <= abs(offset)]
        rows = rows.with_columns(
            nw.coalesce(*(nw.when(column // base == wanted).then(column) for column in near)).alias(_FOUND)
        )
        rows = rows.with_columns(
            (nw.col(_FOUND) // 2 ** names.index(name) % 2).cast(nw.Float32).alias(f"{name}{suffix}") for name in columns
        )
    return rows.drop(_PACKED, _FOUND, *steps.values())


def day_of_run(starts: nw.Expr, inside: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days since the latest row with ``starts`` true, counted from 1, where ``inside`` is true, else 0, as Int16."""
    # Under the name of the day column, Narwhals on pandas would order the window by these masked days: hence the alias.
    start = nw.when(starts).then(nw.col(day)).alias("_start_day")
    since = nw.col(day) - start.fill_null(strategy="forward").over(group, order_by=day) + 1
    return nw.when(inside).then(since).otherwise(nw.lit(0)).cast(nw.Int16)
