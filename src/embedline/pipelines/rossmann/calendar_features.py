"""Features of the opening calendar that the notebook does not have: neighbouring days, weeks, long closures.

All are known in advance, since the data include the calendar of the days to forecast. They make the difference between
the error with the notebook's columns and the error of this project.
"""

import math

import narwhals as nw
from narwhals.typing import FrameT

from embedline.frames.days import (
    EARLIEST_YEAR,
    add_neighbours,
    day_number_of,
    day_of_run,
    days_from_next,
    days_since,
)

LONG_CLOSURE = 5  # days; shorter gaps are weekends and holidays, longer ones refurbishments
GAP_CAP = 8  # days: a gap around a row counts as this long at most
SHORT_MEMORY = 25  # days around a long closure that are counted one by one
LONG_MEMORY = 120  # days for which the length of the last long closure is kept
REOPENING_SCALE, CLOSING_SCALE = 40.0, 15.0  # days over which the effect of a long closure fades
EVENT_CAPS = {"Promo": 20, "SchoolHoliday": 40, "StateHoliday": 30}  # days: farther ones count as this far
MONTH_END_CAP = 10  # days
UNKNOWN_COMPETITION = -2.0  # CompetitionSince of a store whose competitor opened on a day that is not known
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

NEIGHBOURS = {
    -1: ("Yesterday", ("Open", "StateHoliday", "Promo")),
    1: ("Tomorrow", ("Open", "StateHoliday", "SchoolHoliday", "Promo")),
    2: ("InTwoDays", ("StateHoliday",)),
}


def add_open_days(rows: FrameT, *, known_to: str | None = None) -> FrameT:
    """Add OpenDaysInWeek, the days from Monday to Sunday on which the row's store is open, from Store, DayNumber, Open.

    It is missing where the week goes on after the day number in the column ``known_to``, the last that is known to a
    row.
    """
    week = (nw.col("DayNumber") + 3) // 7
    rows = rows.with_columns(_store_week=nw.col("Store").cast(nw.Int64) * 65_536 + week)
    open_days = nw.col("Open").cast(nw.Int32).sum().over("_store_week").cast(nw.Int8)
    rows = rows.with_columns(OpenDaysInWeek=open_days)
    if known_to:
        sunday = week * 7 + 3
        rows = rows.with_columns(OpenDaysInWeek=nw.when(sunday <= nw.col(known_to)).then(nw.col("OpenDaysInWeek")))
    return rows.drop("_store_week")


def add_closed_ahead(rows: FrameT, *, known_to: str) -> FrameT:
    """Fill ClosedAfter, Float32, where the store opens no more as far as is known, with the closed days until then.

    The store may stay closed for longer, as before a refurbishment. On the last known day, that of the column
    ``known_to``, it stays missing.
    """
    closed = (nw.col(known_to) - nw.col("DayNumber")).cast(nw.Float32)
    return rows.with_columns(ClosedAfter=nw.coalesce("ClosedAfter", nw.when(closed > 0).then(closed)))


def add_calendar_features(rows: FrameT, *, known_to: str | None = None) -> FrameT:
    """Add features of neighbouring days, promotions and long closures to all rows.

    ``rows`` have Store, DayNumber, the flags Open, StateHoliday, SchoolHoliday and Promo (0 and 1), ClosedBefore and
    ClosedAfter; features that look ahead end with the day number in the column ``known_to``.

    Returns:
        The rows with OpenYesterday, OpenTomorrow and the like (missing where the store has no row that day); PromoDay
        (1 on the first day of a promotion, 0 outside); DaysClosedBefore and DaysClosedAfter (capped);
        DaysSinceReopening and DaysUntilClosing, missing beyond 25 days; SinceReopening and UntilClosing, fading from 1
        to 0; ClosureLength, the logarithm of one and the length of the last long closure, 0 if it is long ago.
    """
    rows = add_neighbours(rows, NEIGHBOURS, day="DayNumber", group="Store", known_to=known_to)
    is_open = nw.col("Open") == 1
    reopens = is_open & (nw.col("ClosedBefore") >= LONG_CLOSURE)
    closes = is_open & (nw.col("ClosedAfter") >= LONG_CLOSURE)
    promotion = nw.col("Promo") == 1
    starts = promotion & (nw.col("PromoYesterday").fill_null(0) == 0)
    rows = rows.with_columns(
        PromoDay=day_of_run(starts, promotion, day="DayNumber", group="Store"),
        DaysClosedBefore=_capped("ClosedBefore"),
        DaysClosedAfter=_capped("ClosedAfter"),
        _since=days_since(reopens, day="DayNumber", group="Store"),
        _length=nw.when(reopens)
        .then(nw.col("ClosedBefore"))
        .alias("_length")
        .fill_null(strategy="forward")
        .over("Store", order_by="DayNumber"),
        _until=(days_from_next(closes, day="DayNumber", group="Store", known_to=known_to) * -1.0).cast(nw.Float32),
    )
    since, until, length = nw.col("_since"), nw.col("_until"), nw.col("_length")
    rows = rows.with_columns(
        DaysSinceReopening=nw.when(since <= SHORT_MEMORY).then(since),
        DaysUntilClosing=nw.when(until <= SHORT_MEMORY).then(until),
        SinceReopening=fading(since, REOPENING_SCALE),
        UntilClosing=fading(until, CLOSING_SCALE),
        ClosureLength=log_length(nw.when(since <= LONG_MEMORY).then(length)),
    )
    return rows.drop("_since", "_length", "_until")


# Logarithms and powers in double precision, rounded once: dataframe backends then agree to the last bit.
def fading(days: nw.Expr, scale: float) -> nw.Expr:
    """From 1 to 0 within some ``scale`` days, 0 where they are missing. Float32."""
    return (days.cast(nw.Float64) * (-1.0 / scale)).exp().fill_null(0.0).cast(nw.Float32)


def log_length(days: nw.Expr) -> nw.Expr:
    """Logarithm of one and a number of days, 0 where it is missing. Float32."""
    return (days.cast(nw.Float64) + 1.0).log().fill_null(0.0).cast(nw.Float32)


def half_years(days: nw.Expr) -> nw.Expr:
    """Half years of 180 days, -3 to 3. Float64."""
    return (days.cast(nw.Float64) / 180.0).clip(-3.0, 3.0)


def _capped(gap: str) -> nw.Expr:
    column = nw.col(gap)
    return nw.when(column > GAP_CAP).then(nw.lit(float(GAP_CAP))).otherwise(column).cast(nw.Float32)


def promo2_months(interval: nw.Expr) -> nw.Expr:
    """Months in which the second promotion of a store restarts, such as ``Jan,Apr,Jul,Oct``, one bit each, Int16."""
    bits = nw.lit(0)
    for bit, month in enumerate(MONTHS):
        bits = bits + interval.str.contains(month).fill_null(False).cast(nw.Int16) * 2**bit
    return bits.cast(nw.Int16)


def date_features() -> dict[str, nw.Expr]:
    """Features of the date alone, from DayNumber, Year and Month.

    DaysLeftInMonth (capped), SeasonSin1 … SeasonCos2 (the time of the year), and MonthBit, the bit of the month in
    :func:`promo2_months`.
    """
    month, day = nw.col("Month").cast(nw.Int32), nw.col("DayNumber")
    bit = nw.lit(1)
    for k in range(1, 12):
        bit = nw.when(month == k + 1).then(nw.lit(2**k)).otherwise(bit)
    last_day = day_number_of(nw.col("Year") + month // 12, month % 12 + 1, 1) - 1
    turn = day.cast(nw.Float64) * (2.0 * math.pi / 365.25)
    waves = {}
    for k in (1, 2):
        waves[f"SeasonSin{k}"] = (turn * k).sin().cast(nw.Float32)
        waves[f"SeasonCos{k}"] = (turn * k).cos().cast(nw.Float32)
    return {
        "DaysLeftInMonth": (last_day - day).clip(0, MONTH_END_CAP).cast(nw.Int8),
        "MonthBit": bit.cast(nw.Int16),
        **waves,
    }


def row_features() -> dict[str, nw.Expr]:
    """Features of a single row of the joined tables and the calendar, without a window over other rows.

    Promo2Active (1 in a month in which the second promotion restarts), CompetitionSince (half years since the
    competitor opened, -3 to 3, -2 if not known), and the capped distances to the events, DaysSince… and DaysUntil…. An
    event before or after the known calendar counts as far as the cap: the calendar ends soon after the days to
    forecast, so that a missing value would be rare in training and common in the forecast.
    """
    day = nw.col("DayNumber")
    running = (nw.col("Promo2SinceYear") >= EARLIEST_YEAR) & (day >= nw.col("Promo2Day"))
    starts_anew = nw.col("Promo2Months") // nw.col("MonthBit") % 2
    since_opening = half_years(day - nw.col("CompetitionOpenDay"))
    known = nw.col("CompetitionOpenSinceYear") >= EARLIEST_YEAR
    features = {
        "Promo2Active": nw.when(running).then(starts_anew).otherwise(nw.lit(0)).cast(nw.Int8),
        "CompetitionSince": nw.when(known).then(since_opening).otherwise(nw.lit(UNKNOWN_COMPETITION)).cast(nw.Float32),
    }
    for event, cap in EVENT_CAPS.items():
        for name, days in (("DaysSince", nw.col(f"After{event}")), ("DaysUntil", nw.col(f"Before{event}") * -1.0)):
            features[f"{name}{event}"] = days.fill_null(float(cap)).clip(0.0, float(cap)).cast(nw.Float32)
    return features
