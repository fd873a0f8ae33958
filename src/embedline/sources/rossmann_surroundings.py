"""Simulated weather by state and search trends by region, in the layout of ``weather.csv`` and ``googletrend.csv``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.sources.rossmann_calendar import STATE_CODES, days_of_year

NATIONAL_TREND = "Rossmann_DE"
TREND_STATES = ("BE", "BW", "BY", "HE", "HH", "NI", "NW", "RP", "SH", "SL", "SN", "ST", "TH")
"""States with a trend file of their own; that of Lower Saxony, NI, serves the code ``HB,NI``."""

_MEMORY = 0.75 ** np.arange(20)  # weather anomalies fade by a quarter a day
_INCH_HUNDREDTH = 0.254  # rain is measured in hundredths of an inch, hence 0.25, 0.51, 1.02 mm


@dataclass(frozen=True)
class Weather:
    """Weather by day and state, and the variables that sales depend on, shapes (days, 16 states)."""

    table: pl.DataFrame
    temperature: NDArray[np.float64]
    rain: NDArray[np.bool_]
    snow: NDArray[np.bool_]


@dataclass(frozen=True)
class Trends:
    """Search trends; ``values`` by week and region (the national one first), ``first_sunday`` begins the first week."""

    table: pl.DataFrame
    values: NDArray[np.int64]
    first_sunday: np.datetime64


def generate_weather(days: NDArray[np.datetime64], rng: np.random.Generator) -> Weather:
    """Draw weather for every German state: a yearly cycle with anomalies that last some days."""
    shape = (len(days), len(STATE_CODES))
    cycle = -9.5 * np.cos(2 * np.pi * (days_of_year(days) - 20) / 365.25)
    national = _anomalies(rng, (len(days), 1), 3.5)
    mean = np.rint(10 + cycle[:, None] + national + _anomalies(rng, shape, 1.2) + rng.normal(0, 0.8, shape[1]))
    highest = mean + 1 + rng.poisson(3, shape)
    lowest = mean - 1 - rng.poisson(3, shape)
    wet = rng.random(shape) < 0.58
    snow = wet & (mean <= 0)
    rain = wet & (mean >= -1) & ~(snow & (rng.random(shape) < 0.7))
    events = _events(rain, snow, mean, rng)

    humidity = np.clip(np.rint(rng.normal(70 + 10 * wet, 10)), 30, 99)
    dew = np.rint(mean - (100 - humidity) / 5)
    pressure = np.rint(1015 - 5 * wet + _anomalies(rng, shape, 6))
    sight = np.clip(rng.normal(12, 4, shape).astype(int), 1, 20)
    no_sight = rng.random(shape) < 0.024
    wind = 2 + rng.poisson(10, shape)
    strongest = wind + 3 + rng.poisson(8, shape)
    gusts = np.where((strongest > 26) & (rng.random(shape) < 0.8), strongest + 8 + rng.poisson(12, shape), np.nan)
    fallen = np.round(np.where(rain, rng.geometric(0.15, shape) - 1, 0) * _INCH_HUNDREDTH, 2)
    clouds = np.where(rng.random(shape) < 0.074, np.nan, np.clip(rng.normal(5 + wet, 1.5).astype(int), 0, 8))
    columns = {
        "Max_TemperatureC": highest.astype(int),
        "Mean_TemperatureC": mean.astype(int),
        "Min_TemperatureC": lowest.astype(int),
        "Dew_PointC": (dew + 2).astype(int),
        "MeanDew_PointC": dew.astype(int),
        "Min_DewpointC": (dew - 2).astype(int),
        "Max_Humidity": np.clip(humidity + 18, 0, 100).astype(int),
        "Mean_Humidity": humidity.astype(int),
        "Min_Humidity": np.clip(humidity - 24, 4, 100).astype(int),
        "Max_Sea_Level_PressurehPa": (pressure + 3).astype(int),
        "Mean_Sea_Level_PressurehPa": pressure.astype(int),
        "Min_Sea_Level_PressurehPa": (pressure - 3).astype(int),
        "Max_VisibilityKm": np.where(no_sight, np.nan, np.clip(sight + 12, 1, 31)),
        "Mean_VisibilityKm": np.where(no_sight, np.nan, sight),
        "Min_VisibilitykM": np.where(no_sight, np.nan, np.clip(sight - 5, 0, 31)),
        "Max_Wind_SpeedKm_h": strongest.astype(int),
        "Mean_Wind_SpeedKm_h": wind.astype(int),
        "Max_Gust_SpeedKm_h": gusts,
        "Precipitationmm": fallen,
        "CloudCover": clouds,
        "Events": events,
        "WindDirDegrees": rng.integers(-1, 361, shape),
    }
    frame = pl.DataFrame(
        {"file": np.repeat(list(STATE_CODES), len(days)), "Date": np.tile(days, shape[1])}
        | {name: values.T.ravel() for name, values in columns.items()}
    )
    frame = frame.with_columns(pl.selectors.float().fill_nan(None), pl.col("Events").replace("", None))
    return Weather(frame, mean, rain, snow)


def generate_trends(days: NDArray[np.datetime64], rng: np.random.Generator) -> Trends:
    """Draw weekly search interest: 0 to 100, the highest week of a region = 100.

    Weeks run from Sunday to Saturday and reach some weeks beyond the days at both ends.
    """
    first, last = _sunday_before(days[0] - 28), _sunday_before(days[-1] + 14)
    sundays = np.arange(first, last + 1, 7)
    day = days_of_year(sundays)
    cycle = 3 * np.sin(2 * np.pi * (day - 120) / 365.25) + 22 * np.exp(-(((day - 348) / 12.0) ** 2))
    national = 62 + cycle + 4 * np.arange(len(sundays)) / 52 + rng.normal(0, 4, len(sundays))
    regional = national[:, None] + rng.normal(0, 7, (len(sundays), len(TREND_STATES)))
    raw = np.column_stack([national, regional])
    values = np.clip(np.rint(100 * raw / raw.max(axis=0)), 0, 100).astype(np.int64)
    weeks = [f"{sunday} - {sunday + 6}" for sunday in sundays]
    regions = [NATIONAL_TREND, *(f"{NATIONAL_TREND}_{state}" for state in TREND_STATES)]
    frame = pl.DataFrame(
        {"file": np.repeat(regions, len(weeks)), "week": weeks * len(regions), "trend": values.T.ravel()}
    )
    return Trends(frame, values, first)


def _events(
    rain: NDArray[np.bool_], snow: NDArray[np.bool_], temperature: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.str_]:
    """Return the Events cell, e.g. ``Fog-Rain``, empty on the quarter of days without any."""
    fog = rng.random(rain.shape) < np.where(rain | snow, 0.2, 0.35)
    thunder = rain & (temperature > 14) & (rng.random(rain.shape) < 0.2)
    cells = np.where(fog, "Fog", "").astype("<U32")
    for happened, name in ((rain, "Rain"), (snow, "Snow"), (thunder, "Thunderstorm")):
        joined = np.strings.add(np.where(cells == "", "", np.strings.add(cells, "-")), name)
        cells = np.where(happened, joined, cells)
    return cells


def _anomalies(rng: np.random.Generator, shape: tuple[int, int], sd: float) -> NDArray[np.float64]:
    """Return noise of standard deviation ``sd`` that is correlated along the first axis."""
    drawn = rng.normal(0, sd / np.sqrt((_MEMORY**2).sum()), (shape[0] + len(_MEMORY) - 1, shape[1]))
    return np.column_stack([np.convolve(drawn[:, place], _MEMORY, mode="valid") for place in range(shape[1])])


def _sunday_before(day: np.datetime64) -> np.datetime64:
    """Return the Sunday on or before a day."""
    return day - (day.astype(np.int64) + 4) % 7
