"""The German calendar of the simulated Rossmann tables: state and school holidays, promotion weeks."""

from __future__ import annotations

import datetime as dt

import numpy as np
from dateutil.easter import easter
from numpy.typing import NDArray

_HOLIDAY_CODES = {"Karfreitag": "b", "Ostermontag": "b", "Erster Weihnachtstag": "c", "Zweiter Weihnachtstag": "c"}
_CATHOLIC = ("BY", "SN")  # states whose holidays of catholic regions the originals have: Assumption, Corpus Christi
# First day of the six weeks of summer holidays: they are staggered by state, between late June and early August.
_SUMMER_START = {
    **{"NW": (6, 29), "HB": (7, 23), "HB,NI": (7, 23), "HE": (7, 27), "RP": (7, 27), "SL": (7, 27), "BE": (7, 16)},
    **{"BB": (7, 16), "HH": (7, 16), "MV": (7, 20), "SH": (7, 20), "SN": (7, 13), "ST": (7, 13), "TH": (7, 13)},
    **{"BW": (7, 30), "BY": (8, 1)},
}
_FIRST_PROMO = np.datetime64("2013-01-07")
_PROMO_WEEKS = (True, False) * 5 + (True,)  # every other week; two in a row now and then, as in the originals

Days = NDArray[np.datetime64]


def state_holidays(days: Days, states: list[str]) -> NDArray[np.str_]:
    """Return the StateHoliday code of each day and state, shape (days, states).

    ``0`` none, ``a`` public holiday, ``b`` Good Friday and Easter Monday, ``c`` Christmas.
    """
    from holidays import country_holidays

    codes = np.full((len(days), len(states)), "0", dtype="<U1")
    for place, state in enumerate(states):
        region = state.split(",")[-1]  # Lower Saxony of "HB,NI"
        kinds = ("public", "catholic") if region in _CATHOLIC else ("public",)
        calendar = country_holidays("DE", region, years=_years(days), categories=kinds, language="de")
        for date, name in calendar.items():
            codes[days == np.datetime64(date), place] = _HOLIDAY_CODES.get(name, "a")
    return codes


def school_holidays(days: Days, states: list[str]) -> NDArray[np.bool_]:
    """Return whether each weekday (Monday to Friday) is a school holiday in each state, shape (days, states).

    The dates are typical ones, the same every year but for Easter; only the summer differs by state.
    """
    off = np.zeros((len(days), len(states)), dtype=bool)
    for year in _years(days):
        easter_break = (easter(year) - dt.timedelta(9), 16)
        for start, length in [(f"{year}-01-01", 5), easter_break, (f"{year}-10-12", 13), (f"{year}-12-22", 10)]:
            off[_span(days, np.datetime64(start), length)] = True
        for place, state in enumerate(states):
            off[_span(days, np.datetime64(dt.date(year, *_SUMMER_START[state])), 43), place] = True
    return off & (weekdays(days) <= 5)[:, None]


def promo_days(days: Days) -> NDArray[np.bool_]:
    """Return whether each day lies in a promotion: Monday to Friday, about every other week, in all stores alike."""
    week = (days - _FIRST_PROMO).astype(int) // 7
    return np.array(_PROMO_WEEKS)[week % len(_PROMO_WEEKS)] & (weekdays(days) <= 5)


def weekdays(days: Days) -> NDArray[np.int64]:
    """Return the weekday of each day, 1 = Monday to 7 = Sunday."""
    return (days.astype("datetime64[D]").astype(np.int64) + 3) % 7 + 1


def days_of_year(days: Days) -> NDArray[np.int64]:
    """Return the day of the year of each day, 1 January = 1."""
    return (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1


def _span(days: Days, first: np.datetime64, length: int) -> NDArray[np.bool_]:
    return (days >= first) & (days < first + length)


def _years(days: Days) -> range:
    years = days.astype("datetime64[Y]").astype(int) + 1970
    return range(int(years.min()), int(years.max()) + 1)
