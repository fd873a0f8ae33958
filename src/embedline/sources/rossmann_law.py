"""The true effects behind the simulated Rossmann sales, and the least error that any model of them can reach.

On an open day the natural logarithm of the sales of store *s* on day *t* is the sum of these terms and of normal noise
that is drawn for every store and day independently:

==========================  ==========================================================================================
level of the store          normal around a mean by store type (`LEVELS`), standard deviation 0.3
weekday                     by store type (`WEEKDAYS`); only type b is open on Sundays and holidays as a rule
promotion                   by weekday, strongest on Monday (`PROMO`); type b gains less than half of it
season and growth           0.04 cos(2 pi (day of year - 160) / 365.25) + 0.03 a year; 0.3 (day / 23)^2 before
                            Christmas, 1 to 23 December; -0.08 from 2 to 10 January
state holidays              0.15, 0.08, 0.04 one, two, three days before; 0.08, 0.03 one and two days after
school holidays             0.03
competition                 -0.12 exp(-distance / 3 km) min(months open, 24) / 24; none when distance or date is unknown
promotion 2                 0.04 in the months of the store's interval, once it takes part
weather                     0.002 (mean temperature - 10 C) - 0.015 on days with rain - 0.04 on days with snow
search trend                0.0015 (regional - 65) + 0.001 (national - 65), of the week that covers the day
==========================  ==========================================================================================

Every term is a function of columns of the tables: only the noise cannot be predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedline.sources.rossmann_calendar import days_of_year, weekdays

STORE_TYPES = ("a", "b", "c", "d")
LEVELS = np.array([8.65, 9.0, 8.64, 8.66])
"""Mean log sales by store type."""

LEVEL_SD = 0.3
WEEKDAYS = np.array(
    [
        [0.03, -0.03, -0.05, -0.03, 0.04, -0.18, -0.60],
        [0.04, -0.03, -0.05, 0.00, 0.06, -0.10, 0.15],
        [0.02, -0.05, -0.06, -0.04, 0.04, 0.06, -0.60],
        [0.01, -0.07, -0.06, -0.03, 0.07, 0.05, -0.50],
    ]
)
"""Effect by store type and weekday, Monday first."""

PROMO = np.array([0.42, 0.34, 0.29, 0.27, 0.22, 0.0, 0.0])
"""Effect by weekday, Monday first."""

PROMO_SHARES = np.array([1.0, 0.45, 1.0, 1.0])
"""The share of the promotion effect that each store type gets."""

BEFORE_HOLIDAY = np.array([0.0, 0.15, 0.08, 0.04])
AFTER_HOLIDAY = np.array([0.0, 0.08, 0.03])


@dataclass(frozen=True)
class Conditions:
    """The variables that sales depend on. D days, S stores; arrays of shape (D, S) unless stated."""

    days: NDArray[np.datetime64]  # (D,)
    levels: NDArray[np.float64]  # (S,)
    types: NDArray[np.int64]  # (S,) place in STORE_TYPES
    promo: NDArray[np.bool_]  # (D,)
    days_to_holiday: NDArray[np.int64]
    days_since_holiday: NDArray[np.int64]
    school_holiday: NDArray[np.bool_]
    competition_distance: NDArray[np.float64]  # (S,) metres, NaN when unknown
    competition_months: NDArray[np.float64]  # months since it opened, negative before, NaN when unknown
    promo2: NDArray[np.bool_]  # takes part, and the month is one of its interval
    temperature: NDArray[np.float64]
    rain: NDArray[np.bool_]
    snow: NDArray[np.bool_]
    trend: NDArray[np.int64]
    trend_national: NDArray[np.int64]  # (D,)


def expected_log_sales(at: Conditions) -> NDArray[np.float64]:
    """Log sales by the true effects without noise, float [D, S], as if every store were open every day."""
    weekday = weekdays(at.days) - 1
    promo = (PROMO[weekday] * at.promo)[:, None] * PROMO_SHARES[at.types]
    return (
        at.levels
        + WEEKDAYS[at.types][:, weekday].T
        + promo
        + _season(at.days)[:, None]
        + _within(BEFORE_HOLIDAY, at.days_to_holiday)
        + _within(AFTER_HOLIDAY, at.days_since_holiday)
        + 0.03 * at.school_holiday
        + _competition(at.competition_distance, at.competition_months)
        + 0.04 * at.promo2
        + 0.002 * (at.temperature - 10)
        - 0.015 * at.rain
        - 0.04 * at.snow
        + 0.0015 * (at.trend - 65)
        + 0.001 * (at.trend_national - 65)[:, None]
    )


def noise_floor(noise: float) -> float:
    """Return the least ``exp_rmspe`` that a model of sales with log-normal noise can have.

    For sales ``y = m e^eps`` with ``eps ~ N(0, s)`` and the forecast ``c m``, the mean squared percentage error is
    ``E[(1 - c e^-eps)^2] = 1 - 2 c e^(s^2/2) + c^2 e^(2 s^2)``. It is least at ``c = e^(-3 s^2/2)``, a little below the
    median of ``y``, and there equals ``1 - e^(-s^2)``. Rounding sales to whole numbers adds nothing that matters.

    Args:
        noise: the standard deviation s of the noise of log sales.

    >>> round(noise_floor(0.08), 5)
    0.07987
    """
    return math.sqrt(-math.expm1(-(noise**2)))


def _season(days: NDArray[np.datetime64]) -> NDArray[np.float64]:
    day = days_of_year(days)
    month = days.astype("datetime64[M]").astype(int) % 12 + 1
    day_of_month = (days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(int) + 1
    years = (days - np.datetime64("2013-01-01")).astype(int) / 365.25
    christmas = np.where((month == 12) & (day_of_month <= 23), 0.3 * (day_of_month / 23) ** 2, 0.0)
    january = np.where((day >= 2) & (day <= 10), -0.08, 0.0)
    return 0.04 * np.cos(2 * np.pi * (day - 160) / 365.25) + 0.03 * years + christmas + january


def _within(effects: NDArray[np.float64], distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the effect at a distance of 0, 1, 2 … days, none beyond the last."""
    return np.append(effects, 0.0)[np.minimum(distance, len(effects))]


def _competition(distance: NDArray[np.float64], months: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = np.nan_to_num(np.exp(-distance / 3000), nan=0.0)
    return -0.12 * reach * np.clip(np.nan_to_num(months, nan=0.0), 0, 24) / 24
