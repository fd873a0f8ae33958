"""Features of the opening calendar that the notebook does not have: neighbouring days, weeks, long closures.

All of them are known ahead: the calendar of the days to forecast is part of the data. They are what closes the gap from
the notebook's columns to the project's figures; the log of experiments in the README has their measured worth.
"""

import math
from typing import Any

import narwhals as nw

from embedline.frames.dates import day_number_of
from embedline.frames.elapsed import days_from_next, days_since
from embedline.frames.neighbours import add_neighbours, day_of_run

Frame = Any  # polars.DataFrame or pandas.DataFrame

LONG_CLOSURE = 5  # days; shorter gaps are weekends and holidays, longer ones refurbishments
GAP_CAP = 8  # days: a gap around a row counts as this long at most
SHORT_MEMORY = 25  # days around a long closure that are told apart one by one
LONG_MEMORY = 120  # days for which the length of the last long closure is carried along
REOPENING_SCALE, CLOSING_SCALE = 40.0, 15.0  # days over which the effect of a long closure fades
EVENT_CAPS = {"Promo": 20, "SchoolHoliday": 40, "StateHoliday": 30}  # days: farther ones count as this far
MONTH_END_CAP = 10  # days
EARLIEST_YEAR = 1990  # as in the notebook: earlier starts, 1900 for "not known" among them, are none
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_OPEN, _HOLIDAY, _SCHOOL, _PROMO = "Open", "StateHoliday", "SchoolHoliday", "Promo"


def build_openings(sales: Frame, calendar: Frame) -> Frame:
    """Neighbouring days, open days of the week, the day of a promotion, and distances to long closures, on all rows.

    Returns
    -------
    StoreDay; OpenYesterday, OpenTomorrow and the like for StateHoliday, SchoolHoliday and Promo, and
    StateHolidayInTwoDays (missing where the store has no row that day); OpenDaysInWeek (Monday to Sunday); PromoDay (1
    on the first day of a promotion, 0 outside); DaysClosedBefore and DaysClosedAfter (capped); DaysSinceReopening and
    DaysUntilClosing, missing beyond 25 days; SinceReopening and UntilClosing, fading from 1 to 0; ClosureLength, the
    logarithm of one and the length of the last long closure, 0 if it is long ago.
    """
    columns = ("StoreDay", "Store", "DayNumber", _OPEN, _HOLIDAY, _SCHOOL, _PROMO)
    flags = nw.from_native(sales).select(*columns).with_columns(nw.col(_OPEN, _HOLIDAY, _SCHOOL, _PROMO).cast(nw.Int8))
    gaps = nw.from_native(calendar).select("StoreDay", "ClosedBefore", "ClosedAfter")
    rows = flags.join(gaps, on=["StoreDay"], how="left")
    rows = add_neighbours(
        rows,
        (_OPEN, _HOLIDAY, _SCHOOL, _PROMO),
        offsets={-1: "Yesterday", 1: "Tomorrow", 2: "InTwoDays"},
        day="DayNumber",
        group="Store",
    )
    rows = rows.with_columns(_store_week=nw.col("Store").cast(nw.Int32) * 65_536 + (nw.col("DayNumber") + 3) // 7)
    is_open = nw.col(_OPEN) == 1
    reopens = is_open & (nw.col("ClosedBefore") >= LONG_CLOSURE)
    closes = is_open & (nw.col("ClosedAfter") >= LONG_CLOSURE)
    starts = (nw.col(_PROMO) == 1) & (nw.col(f"{_PROMO}Yesterday").fill_null(0) == 0)
    length = nw.when(reopens).then(nw.col("ClosedBefore")).alias("_length")
    rows = rows.with_columns(
        OpenDaysInWeek=nw.col(_OPEN).cast(nw.Int32).sum().over("_store_week").cast(nw.Int8),
        PromoDay=day_of_run(starts, nw.col(_PROMO) == 1, day="DayNumber", group="Store"),
        DaysClosedBefore=_capped("ClosedBefore"),
        DaysClosedAfter=_capped("ClosedAfter"),
        _since=days_since(reopens, day="DayNumber", group="Store"),
        _until=-days_from_next(closes, day="DayNumber", group="Store"),
        _length=length.fill_null(strategy="forward").over("Store", order_by="DayNumber"),
    )
    since, until = nw.col("_since"), nw.col("_until")
    rows = rows.with_columns(
        DaysSinceReopening=nw.when(since <= SHORT_MEMORY).then(since),
        DaysUntilClosing=nw.when(until <= SHORT_MEMORY).then(until),
        SinceReopening=(since * (-1.0 / REOPENING_SCALE)).exp().fill_null(0.0).cast(nw.Float32),
        UntilClosing=(until * (-1.0 / CLOSING_SCALE)).exp().fill_null(0.0).cast(nw.Float32),
        ClosureLength=nw.when(since <= LONG_MEMORY)
        .then((nw.col("_length") + 1.0).log())
        .otherwise(nw.lit(0.0))
        .cast(nw.Float32),
    )
    unused = ("OpenInTwoDays", "SchoolHolidayInTwoDays", "PromoInTwoDays", "ClosedBefore", "ClosedAfter")
    working = ("Store", "DayNumber", _OPEN, _HOLIDAY, _SCHOOL, _PROMO, "_store_week", "_since", "_until", "_length")
    return rows.drop(*unused, *working).to_native()


def _capped(gap: str) -> nw.Expr:
    column = nw.col(gap)
    return nw.when(column > GAP_CAP).then(nw.lit(float(GAP_CAP))).otherwise(column).cast(nw.Float32)


def promo2_months(interval: nw.Expr) -> nw.Expr:
    """The months in which a store's second promotion starts anew, such as ``Jan,Apr,Jul,Oct``, as a bit each, Int16."""
    bits = nw.lit(0)
    for bit, month in enumerate(MONTHS):
        bits = bits + interval.str.contains(month).fill_null(False).cast(nw.Int16) * 2**bit
    return bits.cast(nw.Int16)


def outlook() -> dict[str, nw.Expr]:
    """Features that a row of the joined tables and the calendar gives by itself.

    Promo2Active (a month in which the second promotion starts anew), DaysLeftInMonth, SeasonSin1 … SeasonCos2 (the
    time of the year), CompetitionSince (half years since the competitor opened, -3 to 3, -2 where not known),
    LogCompetitionDistance, and the capped distances to the events, DaysSince… and DaysUntil….
    """
    month, day = nw.col("Month").cast(nw.Int32), nw.col("DayNumber")
    running = (nw.col("Promo2SinceYear") >= EARLIEST_YEAR) & (day >= nw.col("Promo2Day"))
    starts_anew = nw.col("Promo2Months").cast(nw.Int32) // _power_of_two(month - 1) % 2
    half_years = ((day - nw.col("CompetitionOpenDay")).cast(nw.Float32) / 180.0).clip(-3.0, 3.0)
    known = nw.col("CompetitionOpenSinceYear") >= EARLIEST_YEAR
    last_day = day_number_of(nw.col("Year") + month // 12, month % 12 + 1, 1) - 1
    features = {
        "Promo2Active": nw.when(running).then(starts_anew).otherwise(nw.lit(0)).cast(nw.Int8),
        "DaysLeftInMonth": (last_day - day).clip(0, MONTH_END_CAP).cast(nw.Int8),
        "CompetitionSince": nw.when(known).then(half_years).otherwise(nw.lit(-2.0)).cast(nw.Float32),
        "LogCompetitionDistance": (nw.col("CompetitionDistance").cast(nw.Float64) + 1.0).log().cast(nw.Float32),
        **_season(day),
    }
    for event, cap in EVENT_CAPS.items():
        features[f"DaysSince{event}"] = nw.col(f"After{event}").clip(0.0, float(cap)).cast(nw.Float32)
        features[f"DaysUntil{event}"] = (nw.col(f"Before{event}") * -1.0).clip(0.0, float(cap)).cast(nw.Float32)
    return features


def _season(day: nw.Expr) -> dict[str, nw.Expr]:
    turn = day.cast(nw.Float64) * (2.0 * math.pi / 365.25)
    waves = {}
    for k in (1, 2):
        waves[f"SeasonSin{k}"] = (turn * k).sin().cast(nw.Float32)
        waves[f"SeasonCos{k}"] = (turn * k).cos().cast(nw.Float32)
    return waves


def _power_of_two(exponent: nw.Expr) -> nw.Expr:
    power = nw.lit(1)
    for k in range(1, 12):
        power = nw.when(exponent == k).then(nw.lit(2**k)).otherwise(power)
    return power
