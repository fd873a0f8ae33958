"""The days of the simulated Rossmann tables: German holidays, promotion weeks, weather and search trends."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
from dateutil.easter import easter
from numpy.typing import NDArray

from embedline.pipelines.rossmann.files import WEATHER_COLUMNS

STATE_CODES = {
    **{"BadenWuerttemberg": "BW", "Bayern": "BY", "Berlin": "BE", "Brandenburg": "BB", "Bremen": "HB"},
    **{"Hamburg": "HH", "Hessen": "HE", "MecklenburgVorpommern": "MV", "Niedersachsen": "HB,NI"},
    **{"NordrheinWestfalen": "NW", "RheinlandPfalz": "RP", "Saarland": "SL", "Sachsen": "SN", "SachsenAnhalt": "ST"},
    **{"SchleswigHolstein": "SH", "Thueringen": "TH"},
}
"""State names of the weather files and their codes, as in ``state_names.csv``: ``HB,NI`` is the code in use for
Lower Saxony with Bremen, whose stores the originals do not tell apart."""

TREND_STATES = ("BE", "BW", "BY", "HE", "HH", "NI", "NW", "RP", "SH", "SL", "SN", "ST", "TH")
"""States with a trend file of their own; that of Lower Saxony, NI, serves the code ``HB,NI``."""

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
_FAR = 10_000  # days to a holiday that never comes
_MEMORY = 0.75 ** np.arange(20)  # weather anomalies fade by a quarter a day

Days = NDArray[np.datetime64]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


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


def days_since_event(event: Flags) -> Integers:
    """Return the number of days since the last event in each column, 0 on its day, `_FAR` before the first."""
    place = np.arange(len(event))[:, None]
    last = np.maximum.accumulate(np.where(event, place, -_FAR), axis=0)
    return np.minimum(place - last, _FAR)


def mondays(years: Floats, weeks: Floats) -> Days:
    """Return the Monday of each ISO week, a day far ahead where it is unknown."""
    known = ~np.isnan(years)
    january_4 = (np.where(known, years, 2200).astype(int) - 1970).astype("datetime64[Y]").astype("datetime64[D]") + 3
    return january_4 - (weekdays(january_4) - 1) + 7 * (np.where(known, weeks, 1).astype(int) - 1)


def draw_weather(days: Days, rng: np.random.Generator) -> pl.DataFrame:
    """Draw ``weather.csv``, every German state: a yearly cycle with anomalies that last some days."""
    shape = (len(days), len(STATE_CODES))
    cycle = -9.5 * np.cos(2 * np.pi * (days_of_year(days) - 20) / 365.25)
    national = _anomalies(rng, (len(days), 1), 3.5)
    mean = _whole(10 + cycle[:, None] + national + _anomalies(rng, shape, 1.2) + rng.normal(0, 0.8, shape[1]))
    highest = mean + 1 + rng.poisson(3, shape)
    lowest = mean - 1 - rng.poisson(3, shape)
    wet = rng.random(shape) < 0.58
    snow = wet & (mean <= 0)
    rain = wet & (mean >= -1) & ~(snow & (rng.random(shape) < 0.7))
    events = _events(rain, snow, mean, rng)
    humidity = np.clip(_whole(rng.normal(70 + 10 * wet, 10)), 30, 99)
    dew = _whole(mean - (100 - humidity) / 5)
    pressure = _whole(1015 - 5 * wet + _anomalies(rng, shape, 6))
    sight = np.clip(rng.normal(12, 4, shape).astype(int), 1, 20)
    no_sight = rng.random(shape) < 0.024
    wind = 2 + rng.poisson(10, shape)
    strongest = wind + 3 + rng.poisson(8, shape)
    gusts = np.where((strongest > 26) & (rng.random(shape) < 0.8), strongest + 8 + rng.poisson(12, shape), np.nan)
    fallen = np.round(np.where(rain, rng.geometric(0.15, shape) - 1, 0) * 0.254, 2)  # hundredths of an inch, in mm
    clouds = np.where(rng.random(shape) < 0.074, np.nan, np.clip(rng.normal(5 + wet, 1.5).astype(int), 0, 8))
    sights = (np.where(no_sight, np.nan, one) for one in (np.clip(sight + 12, 1, 31), sight, np.clip(sight - 5, 0, 31)))
    cells = [
        *(highest, mean, lowest, dew + 2, dew, dew - 2),
        *(np.clip(humidity + 18, 0, 100), humidity, np.clip(humidity - 24, 4, 100)),
        *(pressure + 3, pressure, pressure - 3, *sights, strongest, wind, gusts),
        *(fallen, clouds, events, rng.integers(-1, 361, shape)),
    ]
    frame = pl.DataFrame(
        {"file": np.repeat(list(STATE_CODES), len(days)), "Date": np.tile(days, shape[1])}
        | {name: values.T.ravel() for name, values in zip(WEATHER_COLUMNS[1:], cells, strict=True)}
    )
    return frame.with_columns(pl.selectors.float().fill_nan(None), pl.col("Events").replace("", None))


def _events(rain: Flags, snow: Flags, temperature: Integers, rng: np.random.Generator) -> NDArray[np.str_]:
    """Return the Events cell, e.g. ``Fog-Rain``, empty on the quarter of days without any."""
    fog = rng.random(rain.shape) < np.where(rain | snow, 0.2, 0.35)
    thunder = rain & (temperature > 14) & (rng.random(rain.shape) < 0.2)
    cells = np.where(fog, "Fog", "").astype("<U32")
    for happened, name in ((rain, "Rain"), (snow, "Snow"), (thunder, "Thunderstorm")):
        joined = np.strings.add(np.where(cells == "", "", np.strings.add(cells, "-")), name)
        cells = np.where(happened, joined, cells)
    return cells


def _whole(values: Floats) -> Integers:
    return np.rint(values).astype(np.int64)


def _anomalies(rng: np.random.Generator, shape: tuple[int, int], sd: float) -> Floats:
    """Return noise of standard deviation ``sd`` that is correlated along the first axis."""
    drawn = rng.normal(0, sd / np.sqrt((_MEMORY**2).sum()), (shape[0] + len(_MEMORY) - 1, shape[1]))
    return np.column_stack([np.convolve(drawn[:, place], _MEMORY, mode="valid") for place in range(shape[1])])


def draw_trends(days: Days, rng: np.random.Generator) -> pl.DataFrame:
    """Draw ``googletrend.csv``, weekly search interest: 0 to 100, the highest week of a region = 100.

    Weeks run from Sunday to Saturday and reach some weeks beyond the days at both ends. The national trend comes first.
    """
    first, last = (day - weekdays(day) % 7 for day in (days[0] - 28, days[-1] + 14))
    sundays = np.arange(first, last + 1, 7)
    day = days_of_year(sundays)
    cycle = 3 * np.sin(2 * np.pi * (day - 120) / 365.25) + 22 * np.exp(-(((day - 348) / 12.0) ** 2))
    national = 62 + cycle + 4 * np.arange(len(sundays)) / 52 + rng.normal(0, 4, len(sundays))
    regional = national[:, None] + rng.normal(0, 7, (len(sundays), len(TREND_STATES)))
    raw = np.column_stack([national, regional])
    values = np.clip(_whole(100 * raw / raw.max(axis=0)), 0, 100)
    weeks = [f"{sunday} - {sunday + 6}" for sunday in sundays]
    regions = ["Rossmann_DE", *(f"Rossmann_DE_{state}" for state in TREND_STATES)]
    return pl.DataFrame(
        {"file": np.repeat(regions, len(weeks)), "week": weeks * len(regions), "trend": values.T.ravel()}
    )


def _span(days: Days, first: np.datetime64, length: int) -> NDArray[np.bool_]:
    return (days >= first) & (days < first + length)


def _years(days: Days) -> range:
    years = days.astype("datetime64[Y]").astype(int) + 1970
    return range(int(years.min()), int(years.max()) + 1)
