"""Date parts and day numbers, and windows over the rows of a group in the order of its days.

Backends differ in date arithmetic: differences of dates are taken on day numbers, whole days since 1970-01-01. A group
has at most one row a day.
"""

from collections.abc import Mapping, Sequence

import narwhals as nw
from narwhals.typing import FrameT

_NEVER = 2**30  # above any day number, and far enough below the limit of Int32 to subtract from
_DAYS_TO_1970 = 719_163  # days from 0001-01-01 to 1970-01-01, and one, as days of the year count from 1
EARLIEST_YEAR = 1990  # the notebook takes starts before 1990, 1900 for "not known" included, as never
_MONDAY = 3  # 1970-01-01 was a Thursday: (day number + 3) % 7 is 0 on Mondays


def day_number(date: nw.Expr) -> nw.Expr:
    """Whole days since 1970-01-01 of a Date or Datetime expression, as Int32."""
    return (_days_before_year(date.dt.year()) + date.dt.ordinal_day().cast(nw.Int32) - 1).cast(nw.Int32)


def day_number_of(year: nw.Expr, month: nw.Expr, day: int) -> nw.Expr:
    """Day number of the ``day``-th of a month, from integer expressions of year and month (1-12)."""
    month = month.cast(nw.Int32)
    leap = ((year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))).cast(nw.Int32)
    shortness = nw.when(month <= 2).then(nw.lit(0)).otherwise(2 - leap)  # February lacks two days, or one
    return (_days_before_year(year) + (367 * month - 362) // 12 - shortness + day - 1).cast(nw.Int32)


def monday_of_week(year: nw.Expr, week: nw.Expr) -> nw.Expr:
    """Day number of the Monday of an ISO week, from integer expressions of ISO year and week."""
    return (_first_monday(year) + 7 * (week.cast(nw.Int32) - 1)).cast(nw.Int32)


def iso_week(date: nw.Expr) -> nw.Expr:
    """ISO 8601 week of the year, 1 to 53, of a Date or Datetime expression, as Int8."""
    year, day = date.dt.year().cast(nw.Int32), day_number(date)
    first, following = _first_monday(year), _first_monday(year + 1)
    start = nw.when(day < first).then(_first_monday(year - 1)).otherwise(first)
    start = nw.when(day >= following).then(following).otherwise(start)
    return ((day - start) // 7 + 1).cast(nw.Int8)


def add_date_parts(frame: FrameT, date: str = "Date") -> FrameT:
    """Add Year (Int16), Month, Week (ISO 8601) and Day (Int8) of the column ``date``."""
    day = nw.col(date)
    return frame.with_columns(
        Year=day.dt.year().cast(nw.Int16),
        Month=day.dt.month().cast(nw.Int8),
        Week=iso_week(day),
        Day=day.dt.day().cast(nw.Int8),
    )


def periods_since(start: nw.Expr, *, day: str, start_year: str, length: int, cap: int) -> nw.Expr:
    """Periods of ``length`` days from day number ``start`` to column ``day``, 0 before it, at most ``cap``. Int16."""
    periods = ((nw.col(day) - start) // length).clip(0, cap)
    return nw.when(nw.col(start_year) >= EARLIEST_YEAR).then(periods).otherwise(nw.lit(0)).cast(nw.Int16)


def days_since(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Days since the last row of the group with ``event`` true, 0 on such a row; missing before the first. Float32."""
    last = _event_day(event, day).fill_null(strategy="forward").over(group, order_by=day)
    return (nw.col(day) - last).cast(nw.Float32)


def days_from_next(event: nw.Expr, *, day: str, group: str, known_to: str | None = None) -> nw.Expr:
    """Minus the days until the next row of the group with ``event`` true, 0 on such a row, as Float32.

    Missing also if that row is later than the day in the column ``known_to``.

    DIFF(fastai): missing after the last event; the notebook subtracts a missing date and gets -9.2e18 there.
    """
    following = _next_event_day(event, day=day, group=group)
    return nw.when(_is_known(following, known_to)).then(nw.col(day) - following).cast(nw.Float32)


def add_gaps(
    frame: FrameT, event: nw.Expr, *, day: str, group: str, before: str, after: str, known_to: str | None = None
) -> FrameT:
    """Add the number of days between each row and the nearest other rows of its group with ``event`` true.

    Args:
        before, after: names of new Float32 columns: days without the event just before and just after the day of the
            row (days without a row count, too); 0 if the event is on the next day, missing if there is none.
        known_to: column with the last day that is known to a row; an event after it is none.
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
        nw.when(_is_known(coming, known_to)).then(coming - nw.col(day) - 1).cast(nw.Float32).alias(after),
    )
    return gaps.drop(last, following)


def _next_event_day(event: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Day number of the next event of the group, today included; ``_NEVER`` if there is none."""
    # The minimum of the coming event days: as fast as filling backwards.
    return _event_day(event, day).fill_null(_NEVER).cum_min(reverse=True).over(group, order_by=day)


def _is_known(following: nw.Expr, known_to: str | None) -> nw.Expr:
    return following <= nw.col(known_to) if known_to else following < _NEVER


def _event_day(event: nw.Expr, day: str) -> nw.Expr:
    # The alias: under the name of the day column, Narwhals on pandas would order the window by these masked days.
    return nw.when(event).then(nw.col(day)).alias("_event_day")


def add_neighbours(
    frame: FrameT,
    flags: Mapping[int, tuple[str, Sequence[str]]],
    *,
    day: str,
    group: str,
    known_to: str | None = None,
) -> FrameT:
    """Add the values of flags on neighbouring days, 0 or 1 as Float32, missing if the group has no row on that day.

    Args:
        flags: by the distance in days, the suffix of the new columns and the flags to read (0 and 1, none missing),
            such as ``{-1: ("Yesterday", ["Open"]), 1: ("Tomorrow", ["Open", "Promo"])}``.
        known_to: column with the last day that is known to a row; values of later days are missing.
    """
    # The day and the flags of a row in one number: a single window brings them all, and windows take the time here.
    bits = {name: 2**place for place, name in enumerate(dict.fromkeys(n for _, names in flags.values() for n in names))}
    packed = nw.col(day).cast(nw.Int64) * 2 ** len(bits)
    for name, bit in bits.items():
        packed = packed + nw.col(name).cast(nw.Int64) * bit
    # The row k days away is at most k rows away, fewer if days between have no row.
    steps = {k: range(1, k + 1) if k > 0 else range(k, 0) for k in flags}
    places = {step: f"_row{step}" for step in sorted({step for near in steps.values() for step in near})}
    rows = frame.with_columns(_packed=packed)
    rows = rows.with_columns(
        nw.col("_packed").shift(-step).over(group, order_by=day).alias(place) for step, place in places.items()
    )
    found: dict[str, nw.Expr] = {}
    for offset, (suffix, names) in flags.items():
        there = nw.coalesce(*(_row_of_day(places[step], day, offset, len(bits), known_to) for step in steps[offset]))
        found |= {f"{name}{suffix}": (there // bits[name] % 2).cast(nw.Float32) for name in names}
    return rows.with_columns(**found).drop("_packed", *places.values())


def _row_of_day(packed: str, day: str, offset: int, n_flags: int, known_to: str | None) -> nw.Expr:
    """A packed row if it is that of the day ``offset`` days away, which is known."""
    is_it = nw.col(packed) // 2**n_flags - nw.col(day) == offset
    if known_to:
        is_it = is_it & (nw.col(day) + offset <= nw.col(known_to))
    return nw.when(is_it).then(nw.col(packed))


def day_of_run(starts: nw.Expr, inside: nw.Expr, *, day: str, group: str) -> nw.Expr:
    """Day of a run, counted from 1 on the latest row with ``starts`` true; 0 where ``inside`` is false. Int16."""
    since = nw.col(day) - _event_day(starts, day).fill_null(strategy="forward").over(group, order_by=day) + 1
    return nw.when(inside).then(since).otherwise(nw.lit(0)).cast(nw.Int16)


def add_window_sums(
    frame: FrameT, flags: Sequence[str], *, window: int, order: str, group: str, ahead: str | None = None
) -> FrameT:
    """Add ``<flag>_bw`` and ``<flag>_fw``: number of rows with the flag in the window before and after each row.

    Args:
        flags: columns of 0 and 1 without missing values.
        window: number of rows, the row itself included, fewer at the ends of a group; at most 127: the sums are Int8.
        order: number that orders the rows of a group, such as a day number.
        ahead: the part of the group beyond which forward counts do not look; the group itself if not given.
    """
    # The negative order: not every dataframe backend can order windows downwards.
    rows = frame.with_columns((-nw.col(order)).alias("_reversed"))
    sums = {
        f"{flag}{side}": nw.col(flag)
        .cast(nw.Int32)
        .rolling_sum(window, min_samples=1)
        .over(within, order_by=by)
        .cast(nw.Int8)
        for side, by, within in (("_bw", order, group), ("_fw", "_reversed", ahead or group))
        for flag in flags
    }
    return rows.with_columns(**sums).drop("_reversed")


def _days_before_year(year: nw.Expr) -> nw.Expr:
    past = year.cast(nw.Int32) - 1
    return 365 * past + past // 4 - past // 100 + past // 400 - _DAYS_TO_1970 + 1


def _first_monday(year: nw.Expr) -> nw.Expr:
    """Day number of the Monday of ISO week 1, in which the fourth of January always is."""
    fourth = _days_before_year(year) + 3
    return fourth - (fourth + _MONDAY) % 7
