"""Simulated tables in the layout of the Rossmann data, for runs and tests without the real files.

They have the names, columns, quoting, order and quirks of the real files: rows from the newest day to the oldest;
closed days with sales of 0, and a few open ones; stores without rows in the second half of 2014 and stores closed for
some weeks; test rows of some stores only, one of them with blank ``Open``; blank cells of stores and weather; ``HB,NI``
for Lower Saxony; ``\\r\\n`` line ends in the table of store states.

Their sales follow the true effects below: results on them say nothing about the real stores. On an open day the natural
logarithm of the sales of a store is the sum of these terms, and of normal noise that is drawn for every store and day
independently. Every term is a function of columns of the tables: only the noise cannot be predicted, and `noise_floor`
is the error of a perfect model.

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
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from embedline.pipelines.rossmann.files import TABLE_COLUMNS
from embedline.pipelines.rossmann.simulated_days import (
    STATE_CODES,
    TREND_STATES,
    Days,
    Flags,
    Floats,
    Integers,
    days_of_year,
    days_since_event,
    draw_trends,
    draw_weather,
    mondays,
    promo_days,
    school_holidays,
    state_holidays,
    weekdays,
)
from embedline.training.options import Options

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

BEFORE_HOLIDAY, AFTER_HOLIDAY = np.array([0.0, 0.15, 0.08, 0.04]), np.array([0.0, 0.08, 0.03])

PROMO_INTERVALS = ("Jan,Apr,Jul,Oct", "Feb,May,Aug,Nov", "Mar,Jun,Sept,Dec")

# About the originals' shares.
_TYPE_SHARES = (0.54, 0.015, 0.133, 0.312)
_STATE_SHARES = {
    **{"HB,NI": 0.02, "BE": 0.083, "BW": 0.065, "BY": 0.161, "HE": 0.1, "HH": 0.025},
    **{"NW": 0.257, "RP": 0.036, "SH": 0.103, "SN": 0.067, "ST": 0.05, "TH": 0.033},
}
_UNSOLD_SHARE = 6e-5  # open days without sales: 54 of 844,392 in the originals
_BASKETS = np.array([8.8, 5.1, 8.6, 11.3])  # mean sales a customer, by store type
_GAP = (np.datetime64("2014-07-01"), np.datetime64("2014-12-31"))  # as in the originals, for a sixth of the stores


Tables = dict[str, pl.DataFrame]


class GeneratorOptions(Options):
    """What to simulate. The defaults have the real calendar, so that the real splits lie inside."""

    n_stores: int = Field(default=60, ge=4)
    seed: int = Field(default=0, ge=0)
    noise: float = Field(default=0.08, ge=0, allow_inf_nan=False, description="sd of the noise of log sales")
    first_day: dt.date = Field(default=dt.date(2013, 1, 1), ge=dt.date(1991, 1, 1))  # holidays are known from here
    last_day: dt.date = dt.date(2015, 7, 31)
    test_last_day: dt.date = dt.date(2015, 9, 17)

    @model_validator(mode="after")
    def _days_in_order(self) -> Self:
        if not self.first_day < self.last_day < self.test_last_day:
            raise ValueError(
                "first_day, last_day and test_last_day must follow each other, "
                f"got {self.first_day}, {self.last_day}, {self.test_last_day}"
            )
        return self


def generate_tables(options: GeneratorOptions) -> dict[str, bytes]:
    """Simulate the seven tables, CSV bytes by name, laid out like `TABLE_COLUMNS`; equal options give equal bytes.

    The noise is drawn apart from all else: with another ``noise`` only ``Sales`` and ``Customers`` change, and with
    ``noise=0`` the sales have the true effects alone.
    """
    for_stores, for_weather, for_trends, for_days, for_noise = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence(options.seed).spawn(5)
    )
    days = np.arange(np.datetime64(options.first_day), np.datetime64(options.test_last_day) + 1)
    tables = {
        "store": _draw_stores(options.n_stores, for_stores),
        "weather": draw_weather(days, for_weather),
        "googletrend": draw_trends(days, for_trends),
        "state_names": pl.DataFrame({"StateName": list(STATE_CODES), "State": list(STATE_CODES.values())}),
    }
    grid = _draw_sales(days, tables, options, for_days, for_noise)

    is_test = pl.col("Date") > options.last_day
    train = grid.filter(~is_test & ~pl.col("absent"))
    test = grid.filter(is_test & pl.col("in_test")).with_columns(
        pl.when("blank_open").then(None).otherwise("Open").alias("Open"),
        pl.int_range(1, pl.len() + 1).alias("Id"),
    )
    holidays = ("StateHoliday", "SchoolHoliday")
    return {
        "train": _csv("train", train, quoted=holidays),
        "test": _csv("test", test, quoted=holidays),
        "store": _csv("store", tables["store"], quoted=("StoreType", "Assortment", "PromoInterval")),
        "store_states": _csv("store_states", tables["store"]).replace(b"\n", b"\r\n"),
        **{name: _csv(name, tables[name]) for name in ("state_names", "googletrend", "weather")},
    }


def noise_floor(noise: float) -> float:
    """Return the least ``exp_rmspe`` that a model of sales with log-normal noise, of log sales ``noise``, can have.

    For sales ``y = m e^eps`` with ``eps ~ N(0, s)`` and the forecast ``c m``, the mean squared percentage error is
    ``E[(1 - c e^-eps)^2] = 1 - 2 c e^(s^2/2) + c^2 e^(2 s^2)``. It is least at ``c = e^(-3 s^2/2)``, a little below the
    median of ``y``, and there equals ``1 - e^(-s^2)``. Rounding sales to whole numbers adds nothing that matters.

    >>> round(noise_floor(0.08), 5)
    0.07987
    """
    return math.sqrt(-math.expm1(-(noise**2)))


@dataclass(frozen=True)
class Conditions:
    """The variables that sales depend on. D days, S stores; arrays of shape (D, S) unless stated."""

    days: Days  # (D,)
    levels: Floats  # (S,)
    types: Integers  # (S,) place in STORE_TYPES
    promo: Flags  # (D,)
    days_to_holiday: Integers
    days_since_holiday: Integers
    school_holiday: Flags
    competition_distance: Floats  # (S,) metres, NaN when unknown
    competition_months: Floats  # months since it opened, negative before, NaN when unknown
    promo2: Flags  # takes part, and the month is one of its interval
    temperature: Floats
    rain: Flags
    snow: Flags
    trend: Integers
    trend_national: Integers  # (D,)


def expected_log_sales(at: Conditions) -> Floats:
    """Return log sales by the true effects without noise, [D, S], as if every store were open every day."""
    weekday = weekdays(at.days) - 1
    reach = np.nan_to_num(np.exp(-at.competition_distance / 3000), nan=0.0)
    return (
        at.levels
        + WEEKDAYS[at.types][:, weekday].T
        + (PROMO[weekday] * at.promo)[:, None] * PROMO_SHARES[at.types]
        + _season(at.days)[:, None]
        + _within(BEFORE_HOLIDAY, at.days_to_holiday)
        + _within(AFTER_HOLIDAY, at.days_since_holiday)
        + 0.03 * at.school_holiday
        - 0.12 * reach * np.clip(np.nan_to_num(at.competition_months, nan=0.0), 0, 24) / 24
        + 0.04 * at.promo2
        + 0.002 * (at.temperature - 10)
        - 0.015 * at.rain
        - 0.04 * at.snow
        + 0.0015 * (at.trend - 65)
        + 0.001 * (at.trend_national - 65)[:, None]
    )


def _season(days: Days) -> Floats:
    day = days_of_year(days)
    day_of_month = (days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(int) + 1
    years = (days - np.datetime64("2013-01-01")).astype(int) / 365.25
    advent = (days.astype("datetime64[M]").astype(int) % 12 == 11) & (day_of_month <= 23)
    christmas = np.where(advent, 0.3 * (day_of_month / 23) ** 2, 0.0)
    january = np.where((day >= 2) & (day <= 10), -0.08, 0.0)
    return 0.04 * np.cos(2 * np.pi * (day - 160) / 365.25) + 0.03 * years + christmas + january


def _within(effects: Floats, distance: Integers) -> Floats:
    """Return the effect at a distance of 0, 1, 2 … days, none beyond the last."""
    return np.append(effects, 0.0)[np.minimum(distance, len(effects))]


def _draw_stores(n_stores: int, rng: np.random.Generator) -> pl.DataFrame:
    """Draw stores with about the originals' shares of types, states and blanks, each quirk at least once.

    Returns:
        The columns of ``store.csv``, stores numbered from 1, with ``State`` and the ``level`` of log sales.
    """

    def count(share: float) -> int:
        return max(1, int(share * n_stores))

    counts = [count(share) for share in _TYPE_SHARES]
    counts[0] = n_stores - sum(counts[1:])
    types = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    assortments = np.where(rng.random(n_stores) < 0.5, "a", "c")
    assortments = np.where((types == STORE_TYPES.index("b")) & (rng.random(n_stores) < 0.5), "b", assortments)
    states = rng.choice(list(_STATE_SHARES), size=n_stores, p=_normalised(*_STATE_SHARES.values()))
    if "HB,NI" not in states:
        states[rng.integers(n_stores)] = "HB,NI"

    distance = np.clip(np.rint(rng.lognormal(np.log(2325), 1.4, n_stores) / 10) * 10, 20, 75860)
    month = rng.integers(1, 13, n_stores).astype(float)
    year = np.clip(np.rint(2016 - rng.gamma(2.0, 3.5, n_stores)), 1990, 2015)
    shuffled = rng.permutation(n_stores)
    undated = shuffled[: count(0.317)]
    month[undated] = year[undated] = np.nan
    distance[undated[: count(0.0027)]] = np.nan
    if n_stores >= 10:
        month[shuffled[-1]], year[shuffled[-1]] = 1.0, 1900  # the originals have one such store

    outside = rng.permutation(n_stores)[: count(0.488)]
    week = rng.integers(1, 51, n_stores).astype(float)
    since = rng.choice(np.arange(2009.0, 2016), size=n_stores, p=_normalised(12, 15, 21, 13, 20, 15, 4))
    interval = rng.choice(len(PROMO_INTERVALS), size=n_stores, p=_normalised(0.587, 0.228, 0.185))
    week[outside] = since[outside] = np.nan
    interval[outside] = -1
    blank = {"CompetitionDistance": distance, "CompetitionOpenSinceMonth": month, "CompetitionOpenSinceYear": year}
    blank |= {"Promo2SinceWeek": week, "Promo2SinceYear": since}
    columns = {
        "Store": np.arange(1, n_stores + 1),
        "StoreType": np.array(STORE_TYPES)[types],
        "Assortment": assortments,
        "State": states,
        "Promo2": (interval >= 0).astype(int),
        "PromoInterval": np.array([*PROMO_INTERVALS, ""])[interval],
        **{name: pl.Series(values).fill_nan(None).cast(pl.Int64) for name, values in blank.items()},
        "level": LEVELS[types] + rng.normal(0, LEVEL_SD, n_stores),
    }
    return pl.DataFrame(columns)


def _normalised(*shares: float) -> Floats:
    return np.array(shares) / sum(shares)


def _draw_sales(
    days: Days, tables: Tables, options: GeneratorOptions, rng: np.random.Generator, noise_rng: np.random.Generator
) -> pl.DataFrame:
    """Return one row a day and store, newest day first: the columns of train and test and which rows belong to them."""
    shape = (len(days), options.n_stores)
    states, state = np.unique(tables["store"]["State"].to_numpy(), return_inverse=True)
    holidays = state_holidays(days, list(states))[:, state]
    school = school_holidays(days, list(states))[:, state]
    at = _conditions(days, tables, holidays != "0", school)
    is_test = (days > np.datetime64(options.last_day))[:, None]
    is_open, absent = _opening(days, holidays != "0", at.types, ~is_test, rng)
    in_test, blank_open = _test_stores(days, at.types, is_test, rng)

    log_sales = expected_log_sales(at) + options.noise * noise_rng.standard_normal(shape)
    sales = np.where(is_open, np.maximum(1, np.rint(np.exp(log_sales))), 0)
    sold = np.flatnonzero(is_open & ~is_test & ~absent)
    sales.flat[rng.choice(sold, size=max(1, round(_UNSOLD_SHARE * len(sold))), replace=False)] = 0
    basket = _BASKETS[at.types] * np.exp(rng.normal(0, 0.05, shape))
    customers = np.where(sales > 0, np.maximum(1, np.rint(sales / basket)), 0)

    by_day = {"DayOfWeek": weekdays(days), "Date": days, "Promo": at.promo.astype(int)}
    cells = {"Sales": sales.astype(int), "Customers": customers.astype(int), "Open": is_open.astype(int)}
    cells |= {"StateHoliday": holidays, "SchoolHoliday": school.astype(int)}
    cells |= {"absent": absent, "in_test": in_test, "blank_open": blank_open}
    return pl.DataFrame(
        {"Store": np.tile(np.arange(1, shape[1] + 1), shape[0])}
        | {name: np.repeat(values[::-1], shape[1]) for name, values in by_day.items()}
        | {name: values[::-1].ravel() for name, values in cells.items()}
    )


def _opening(
    days: Days, holiday: Flags, types: Integers, is_train: Flags, rng: np.random.Generator
) -> tuple[Flags, Flags]:
    """Return which stores are open and which have no row at all, both of shape (days, stores)."""
    n_days, n_stores = holiday.shape
    sunday = (weekdays(days) == 7)[:, None]
    always = types == STORE_TYPES.index("b")
    is_open = always | ~(sunday | holiday) | (sunday & ~holiday & (rng.random(holiday.shape) < 0.01))

    order = rng.permutation(n_stores)
    n_gap, n_refurbished = max(1, round(0.16 * n_stores)), max(1, round(0.1 * n_stores))
    gap = ((days >= _GAP[0]) & (days <= _GAP[1]))[:, None]
    absent = gap & np.isin(np.arange(n_stores), order[:n_gap])

    starts = rng.integers(0, max(1, int(is_train.sum()) - 14), n_stores)
    lengths = rng.integers(14, 57, n_stores)
    since = np.arange(n_days)[:, None] - starts
    refurbished = np.isin(np.arange(n_stores), order[n_gap : n_gap + n_refurbished])
    closed = refurbished & (since >= 0) & (since < lengths) & is_train
    return is_open & ~closed, absent


def _test_stores(days: Days, types: Integers, is_test: Flags, rng: np.random.Generator) -> tuple[Flags, Flags]:
    """Return which stores and days the test table has, and where its ``Open`` is blank: one store's last days."""
    n_stores = len(types)
    chosen = rng.permutation(n_stores)[: max(2, round(0.768 * n_stores))]
    in_test = is_test & np.isin(np.arange(n_stores), chosen)
    blank_store = next(store for store in chosen if types[store] != STORE_TYPES.index("b"))
    workdays = np.flatnonzero(is_test[:, 0] & (weekdays(days) != 7))
    blank = np.zeros_like(in_test)
    blank[workdays[-11:], blank_store] = True
    return in_test, blank


def _conditions(days: Days, tables: Tables, holiday: Flags, school: Flags) -> Conditions:
    """Bring the columns of the tables to one row a day and one column a store."""
    stores, weather, trends = tables["store"], tables["weather"], tables["googletrend"]

    def numbers(name: str) -> Floats:
        return stores[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    def by_store(values: pl.Series) -> NDArray[Any]:  # from a row a state and day
        return values.to_numpy().reshape(-1, len(days)).T[:, at_state]

    at_state = [list(STATE_CODES.values()).index(state) for state in stores["State"]]
    at_region = [1 + TREND_STATES.index(state.split(",")[-1]) for state in stores["State"]]
    week = (days - np.datetime64(trends["week"][0][:10])).astype(int) // 7
    trend = trends["trend"].to_numpy().reshape(1 + len(TREND_STATES), -1).T[week]
    months = (days.astype("datetime64[M]").astype(int) + 12 * 1970)[:, None]
    opened = 12 * numbers("CompetitionOpenSinceYear") + numbers("CompetitionOpenSinceMonth") - 1
    interval = [[*PROMO_INTERVALS, ""].index(months_of_year) for months_of_year in stores["PromoInterval"]]
    takes_part = days[:, None] >= mondays(numbers("Promo2SinceYear"), numbers("Promo2SinceWeek"))
    return Conditions(
        days=days,
        levels=stores["level"].to_numpy(),
        types=np.searchsorted(STORE_TYPES, stores["StoreType"].to_numpy()),
        promo=promo_days(days),
        days_to_holiday=days_since_event(holiday[::-1])[::-1],
        days_since_holiday=days_since_event(holiday),
        school_holiday=school,
        competition_distance=numbers("CompetitionDistance"),
        competition_months=months - opened,
        promo2=((months % 12) % 3 == interval) & takes_part,
        temperature=by_store(weather["Mean_TemperatureC"]),
        rain=by_store(weather["Events"].str.contains("Rain").fill_null(False)),
        snow=by_store(weather["Events"].str.contains("Snow").fill_null(False)),
        trend=trend[:, at_region],
        trend_national=trend[:, 0],
    )


def _csv(table: str, frame: pl.DataFrame, quoted: Collection[str] = ()) -> bytes:
    """Write the columns of a table, in Kaggle's style where some are quoted: their blanks and the names are, too."""
    if not quoted:
        return frame.select(TABLE_COLUMNS[table]).write_csv().encode()
    cells = [
        (pl.format('"{}"', pl.col(name).cast(pl.String)) if name in quoted else pl.col(name).cast(pl.String))
        .fill_null("")
        .alias(f'"{name}"')
        for name in TABLE_COLUMNS[table]
    ]
    return frame.select(cells).write_csv(quote_style="never").encode()
