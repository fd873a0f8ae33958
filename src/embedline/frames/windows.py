"""Windows over the rows of a group in the order of its days: elapsed days, gaps, neighbouring days, counts.

Days are integer day numbers (:func:`.dates.day_number`), and a group has at most one row a day.
"""

from collections.abc import Mapping, Sequence

import narwhals as nw
from narwhals.typing import FrameT

_NEVER = 2**30  # above any day number, and far enough below the limit of Int32 to subtract from


def days_since(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days since the last row of the group with ``event`` true, 0 on such a row; missing before the first. Float32."""
    last = _event_day(event, day).fill_null(strategy="forward").over(group, order_by=day)
    return (nw.col(day) - last).cast(nw.Float32)


def days_from_next(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Minus the days until the next row of the group with ``event`` true, 0 on such a row, as Float32.

    DIFF(fastai): missing after the last event; the notebook subtracts a missing date and gets -9.2e18 there.
    """
    following = _next_event_day(event, day=day, group=group)
    return nw.when(following < _NEVER).then(nw.col(day) - following).cast(nw.Float32)


def add_gaps(frame: FrameT, event: nw.Expr, *, day: str, group: str, before: str, after: str) -> FrameT:
    """Add the number of days between each row and the nearest other rows of its group with ``event`` true.

    Parameters
    ----------
    before, after : names of the new Float32 columns: days without the event just before and just after the day of the
        row (days without a row count, too), 0 if the event is on the neighbouring day, missing if there is no event
    """
    event_day = _event_day(event, day)
    last, following = "_last", "_next"
    found = frame.with_columns(
        event_day.fill_null(strategy="forward").over(group, order_by=day).alias(last),
        _next_event_day(event, day=day, group=group).alias(following),
    )
    coming = nw.col(following).shift(-1).over(group, order_by=day)
    gaps = found.with_columns(  # a second step, as windows cannot be nested
        (nw.col(day) - nw.col(last).shift(1).over(group, order_by=day) - 1).cast(nw.Float32).alias(before),
        nw.when(coming < _NEVER).then(coming - nw.col(day) - 1).cast(nw.Float32).alias(after),
    )
    return gaps.drop(last, following)


def _next_event_day(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Day number of the next event of the group, today included; ``_NEVER`` if there is none."""
    # The minimum of the coming event days: on Polars as fast as filling backwards, which takes Spark a time that is
    # quadratic in the rows of a group.
    return _event_day(event, day).fill_null(_NEVER).cum_min(reverse=True).over(group, order_by=day)


def _event_day(event: nw.Expr, day: str) -> nw.Expr:
    # The alias: under the name of the day column, Narwhals on pandas would order the window by these masked days.
    return nw.when(event).then(nw.col(day)).alias("_event_day")


def add_neighbours(frame: FrameT, flags: Mapping[int, tuple[str, Sequence[str]]], *, day: str, group: str) -> FrameT:
    """Add the values of flags on neighbouring days, 0 or 1 as Float32, missing if the group has no row on that day.

    Parameters
    ----------
    flags : by the distance in days, the suffix of the new columns and the flags to read (0 and 1, none missing), such
        as ``{-1: ("Yesterday", ["Open"]), 1: ("Tomorrow", ["Open", "Promo"])}``
    """
    # The row k days away is at most k rows away, fewer if days between have no row.
    for offset, (suffix, columns) in flags.items():
        steps = range(1, offset + 1) if offset > 0 else range(offset, 0)
        days = {step: nw.col(day).shift(-step).over(group, order_by=day) for step in steps}
        frame = frame.with_columns(
            nw.coalesce(
                *(
                    nw.when(there - nw.col(day) == offset).then(nw.col(name).shift(-step).over(group, order_by=day))
                    for step, there in days.items()
                )
            )
            .cast(nw.Float32)
            .alias(f"{name}{suffix}")
            for name in columns
        )
    return frame


def day_of_run(starts: nw.Expr, inside: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Day of a run, counted from 1 on the latest row with ``starts`` true; 0 where ``inside`` is false. Int16."""
    # The alias: under the name of the day column, Narwhals on pandas would order the window by these masked days.
    start = nw.when(starts).then(nw.col(day)).alias("_start_day")
    since = nw.col(day) - start.fill_null(strategy="forward").over(group, order_by=day) + 1
    return nw.when(inside).then(since).otherwise(nw.lit(0)).cast(nw.Int16)


def add_window_sums(frame: FrameT, flags: Sequence[str], *, window: int, order: str, group: str) -> FrameT:
    """Add ``<flag>_bw`` and ``<flag>_fw``: number of rows with the flag in the window before and after each row.

    Parameters
    ----------
    flags : columns of 0 and 1 without missing values
    window : number of rows, the row itself included: backward (``_bw``, fewer at the start of a group) or forward
        (``_fw``, fewer at its end); at most 127, since the sums are Int8
    order : number that orders the rows of a group, such as a day number
    """
    # The negative order: not every dataframe backend can order windows downwards.
    rows = frame.with_columns((-nw.col(order)).alias("_reversed"))
    sums = {
        f"{flag}{side}": nw.col(flag)
        .cast(nw.Int32)
        .rolling_sum(window, min_samples=1)
        .over(group, order_by=by)
        .cast(nw.Int8)
        for side, by in (("_bw", order), ("_fw", "_reversed"))
        for flag in flags
    }
    return rows.with_columns(**sums).drop("_reversed")
