"""Days since the last and until the next event of a group, and the length of the gaps around a row.

Dates are given as integer day numbers. Results are missing where there was, or will be, no such event.
"""

import narwhals as nw
from narwhals.typing import FrameT

_NEVER = 2**30  # above any day number, and far enough below the limit of Int32 to subtract from


def days_since(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days since the group's last row with ``event`` true, 0 on such a row, as Float32; missing before the first."""
    last = _event_day(event, day).fill_null(strategy="forward").over(group, order_by=day)
    return (nw.col(day) - last).cast(nw.Float32)


def days_from_next(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days counted from the group's next row with ``event`` true, so 0 or negative, as Float32.

    DIFF(fastai): missing after the last event; the notebook's subtraction of a missing date gave -9.2e18 there.
    """
    following = _next_event_day(event, day=day, group=group)
    return nw.when(following < _NEVER).then(nw.col(day) - following).cast(nw.Float32)


def add_gaps(frame: FrameT, event: nw.Expr, *, day: str, group: str, before: str, after: str) -> FrameT:
    """Add the number of days between each row and the group's nearest rows with ``event`` true, itself not counted.

    Parameters
    ----------
    before, after : names of the new Float32 columns: days without the event just before and just after the row's day
        (days without a row count as well), 0 when it came the day before; missing where it never came, or never comes
    """
    known = _event_day(event, day)
    last, following = "_last", "_next"
    found = frame.with_columns(
        known.fill_null(strategy="forward").over(group, order_by=day).alias(last),
        _next_event_day(event, day=day, group=group).alias(following),
    )
    coming = nw.col(following).shift(-1).over(group, order_by=day)
    gaps = found.with_columns(  # a second step, as windows cannot be nested
        (nw.col(day) - nw.col(last).shift(1).over(group, order_by=day) - 1).cast(nw.Float32).alias(before),
        nw.when(coming < _NEVER).then(coming - nw.col(day) - 1).cast(nw.Float32).alias(after),
    )
    return gaps.drop(last, following)


def _next_event_day(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Day number of the group's next event, the row's own among them; ``_NEVER`` where none comes."""
    # The lowest of the event days to come: on Polars as quick as filling backwards, which takes Spark a time that
    # grows with the square of a group's rows.
    return _event_day(event, day).fill_null(_NEVER).cum_min(reverse=True).over(group, order_by=day)


def _event_day(event: nw.Expr, day: str) -> nw.Expr:
    # Under the name of the day column, Narwhals on pandas would order the window by these masked days: hence the alias.
    return nw.when(event).then(nw.col(day)).alias("_event_day")
