"""The German calendar behind the generated Rossmann tables: states, public and school holidays, promotion weeks."""

from __future__ import annotations

import datetime as dt

import numpy as np
from numpy.typing import NDArray

STATE_CODES = {
    "BadenWuerttemberg": "BW",
    "Bayern": "BY",
    "Berlin": "BE",
    "Brandenburg": "BB",
    "Bremen": "HB",
    "Hamburg": "HH",
    "Hessen": "HE",
    "MecklenburgVorpommern": "MV",
    "Niedersachsen": "HB,NI",
    "NordrheinWestfalen": "NW",
    "RheinlandPfalz": "RP",
    "Saarland": "SL",
    "Sachsen": "SN",
    "SachsenAnhalt": "ST",
    "SchleswigHolstein": "SH",
    "Thueringen": "TH",
}
"""State names of the weather files and their codes, as in ``state_names.csv``: ``HB,NI`` is the code in use for
Lower Saxony with Bremen, whose stores the originals do not tell apart."""

_EVERYWHERE = tuple(STATE_CODES.values())
_EPIPHANY = ("BW", "BY", "ST")
_CORPUS_CHRISTI = ("BW", "BY", "HE", "NW", "RP", "SL", "SN")
_ASSUMPTION = ("BY",)
_REFORMATION = ("BB", "MV", "SN", "ST", "TH")
_ALL_SAINTS = ("BW", "BY", "NW", "RP", "SL")
_REPENTANCE = ("SN",)

# First day of the six weeks of summer holidays: they are staggered by state, between late June and early August.
_SUMMER_START = {
    **{"NW": (6, 29), "HB": (7, 23), "HB,NI": (7, 23), "HE": (7, 27), "RP": (7, 27), "SL": (7, 27), "BE": (7, 16)},
    **{"BB": (7, 16), "HH": (7, 16), "MV": (7, 20), "SH": (7, 20), "SN": (7, 13), "ST": (7, 13), "TH": (7, 13)},
    **{"BW": (7, 30), "BY": (8, 1)},
}
_FIRST_PROMO = np.datetime64("2013-01-07")
_PROMO_WEEKS = (True, False) * 5 + (True,)  # every other week; two in a row now and then, as in the originals


def easter(year: int) -> dt.date:
    """Return Easter Sunday of a Gregorian year (Gauss's algorithm in the form of Butcher).

    >>> easter(2015)
    datetime.date(2015, 4, 5)
    """
    a, b, c = year % 19, year // 100, year % 100
    d, e = divmod(b, 4)
    f = (b + 8) // 25
    g = (b - f + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return dt.date(year, month, day + 1)


def state_holidays(days: NDArray[np.datetime64], states: list[str]) -> NDArray[np.str_]:
    """Return the StateHoliday code of each day and state, shape (days, states).

    ``0`` none, ``a`` public holiday, ``b`` Good Friday and Easter Monday, ``c`` Christmas.
    """
    codes = np.full((len(days), len(states)), "0", dtype="<U1")
    for year in _years(days):
        for date, code, where in _holidays_of(year):
            codes[np.ix_(days == np.datetime64(date), [state in where for state in states])] = code
    return codes


def _holidays_of(year: int) -> list[tuple[dt.date, str, tuple[str, ...]]]:
    """Return date, code and states of the holidays of a year, as they stand in the original tables."""
    sunday = easter(year)
    november_23 = dt.date(year, 11, 23)
    repentance = november_23 - dt.timedelta((november_23.weekday() - 2 - 1) % 7 + 1)  # the Wednesday before 23 November
    return [
        (dt.date(year, 1, 1), "a", _EVERYWHERE),
        (dt.date(year, 1, 6), "a", _EPIPHANY),
        (sunday - dt.timedelta(2), "b", _EVERYWHERE),
        (sunday + dt.timedelta(1), "b", _EVERYWHERE),
        (dt.date(year, 5, 1), "a", _EVERYWHERE),
        (sunday + dt.timedelta(39), "a", _EVERYWHERE),
        (sunday + dt.timedelta(50), "a", _EVERYWHERE),
        (sunday + dt.timedelta(60), "a", _CORPUS_CHRISTI),
        (dt.date(year, 8, 15), "a", _ASSUMPTION),
        (dt.date(year, 10, 3), "a", _EVERYWHERE),
        (dt.date(year, 10, 31), "a", _REFORMATION),
        (dt.date(year, 11, 1), "a", _ALL_SAINTS),
        (repentance, "a", _REPENTANCE),
        (dt.date(year, 12, 25), "c", _EVERYWHERE),
        (dt.date(year, 12, 26), "c", _EVERYWHERE),
    ]


def school_holidays(days: NDArray[np.datetime64], states: list[str]) -> NDArray[np.bool_]:
    """Return whether each weekday (Monday to Friday) is a school holiday in each state, shape (days, states).

    The dates are typical ones, the same every year but for Easter; only the summer differs by state.
    """
    off = np.zeros((len(days), len(states)), dtype=bool)
    for year in _years(days):
        sunday = easter(year)
        breaks = [
            (dt.date(year, 1, 1), 5),
            (sunday - dt.timedelta(9), 16),
            (dt.date(year, 10, 12), 13),
            (dt.date(year, 12, 22), 10),
        ]
        for start, length in breaks:
            off[_span(days, start, length)] = True
        for place, state in enumerate(states):
            off[_span(days, dt.date(year, *_SUMMER_START[state]), 43), place] = True
    return off & (weekdays(days) <= 5)[:, None]


def promo_days(days: NDArray[np.datetime64]) -> NDArray[np.bool_]:
    """Return whether each day lies in a promotion: Monday to Friday, about every other week, in all stores alike."""
    week = (days - _FIRST_PROMO).astype(int) // 7
    return np.array(_PROMO_WEEKS)[week % len(_PROMO_WEEKS)] & (weekdays(days) <= 5)


def weekdays(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return the weekday of each day, 1 = Monday to 7 = Sunday."""
    return (days.astype("datetime64[D]").astype(np.int64) + 3) % 7 + 1


def days_of_year(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return the day of the year of each day, 1 January = 1."""
    return (days - days.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1


def _span(days: NDArray[np.datetime64], start: dt.date, length: int) -> NDArray[np.bool_]:
    first = np.datetime64(start)
    return (days >= first) & (days < first + length)


def _years(days: NDArray[np.datetime64]) -> range:
    years = days.astype("datetime64[Y]").astype(int) + 1970
    return range(int(years.min()), int(years.max()) + 1)
