"""Date parts, day numbers and durations, by arithmetic that every dataframe backend has.

Backends differ in date arithmetic: differences of dates are taken on day numbers, whole days since 1970-01-01.
"""

import narwhals as nw
from narwhals.typing import FrameT

_DAYS_TO_1970 = 719_163  # days from 0001-01-01 to 1970-01-01, and one, as days of the year count from 1
_EARLIEST_YEAR = 1990  # the notebook takes starts before 1990, 1900 for "not known" included, as never
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
    """Day number of the Monday of an ISO week, from integer expressions of ISO year and week.

    The fourth of January is always in week 1.
    """
    fourth = _days_before_year(year) + 3
    return (fourth - (fourth + _MONDAY) % 7 + 7 * (week.cast(nw.Int32) - 1)).cast(nw.Int32)


def iso_week(date: nw.Expr) -> nw.Expr:
    """ISO 8601 week of the year, 1 to 53, of a Date or Datetime expression, as Int8."""
    year = date.dt.year().cast(nw.Int32)
    weekday = (day_number(date) + _MONDAY) % 7 + 1  # not dt.weekday(): Narwhals on Spark counts Sundays as 0, not 7
    week = (date.dt.ordinal_day().cast(nw.Int32) - weekday + 10) // 7
    return (
        nw.when(week < 1)
        .then(_weeks_in(year - 1))
        .otherwise(nw.when(week > _weeks_in(year)).then(nw.lit(1)).otherwise(week))
        .cast(nw.Int8)
    )


def add_date_parts(frame: FrameT, date: str = "Date") -> FrameT:
    """Add Year (Int16), Month, Week (ISO 8601) and Day (Int8) of the column ``date``."""
    day = nw.col(date)
    return frame.with_columns(
        Year=day.dt.year().cast(nw.Int16),
        Month=day.dt.month().cast(nw.Int8),
        Week=iso_week(day),
        Day=day.dt.day().cast(nw.Int8),
    )


def months_open(*, day: str, start: nw.Expr, start_year: str, cap: int) -> nw.Expr:
    """Whole months (of 30 days) from day number ``start`` to column ``day``, 0 before it, at most ``cap``, as Int16."""
    return _elapsed(day=day, start=start, start_year=start_year, unit=30, cap=cap)


def weeks_running(*, day: str, start: nw.Expr, start_year: str, cap: int) -> nw.Expr:
    """Whole weeks from day number ``start`` to column ``day``, 0 before it, at most ``cap``, as Int16."""
    return _elapsed(day=day, start=start, start_year=start_year, unit=7, cap=cap)


def _elapsed(*, day: str, start: nw.Expr, start_year: str, unit: int, cap: int) -> nw.Expr:
    units = ((nw.col(day) - start) // unit).clip(0, cap)
    return nw.when(nw.col(start_year) >= _EARLIEST_YEAR).then(units).otherwise(nw.lit(0)).cast(nw.Int16)


def _days_before_year(year: nw.Expr) -> nw.Expr:
    past = year.cast(nw.Int32) - 1
    return 365 * past + past // 4 - past // 100 + past // 400 - _DAYS_TO_1970 + 1


def _weeks_in(year: nw.Expr) -> nw.Expr:
    """52, or 53 in years that end on a Thursday or begin on one."""

    def last_weekday(year: nw.Expr) -> nw.Expr:  # 0 is Sunday
        return (year + year // 4 - year // 100 + year // 400) % 7

    long = (last_weekday(year) == 4) | (last_weekday(year - 1) == 3)
    return long.cast(nw.Int32) + 52
