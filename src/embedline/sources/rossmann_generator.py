"""Simulated tables in the layout of the Rossmann data, for runs and tests without the real files.

They have the names, columns, quoting, order and quirks of the real files, but their sales follow the true effects in
`embedline.sources.rossmann_law`: results on them say nothing about the real stores. Since the noise is known,
`noise_floor` gives the error of a perfect model, to which a test can compare.

Quirks: rows from the newest day to the oldest; ``"0"``, ``"a"``, ``"b"``, ``"c"`` as state holidays;
closed days with sales of 0, and a few open ones; stores without rows in the second half of 2014 and stores closed for
some weeks; test rows of some stores only, without sales, one store with blank ``Open``; blank competition dates and
distances; blank promotion-2 columns; ``HB,NI`` for Lower Saxony; blank ``CloudCover`` and ``Events``; ``\\r\\n`` line
ends in the table of store states.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Collection
from typing import Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.sources.rossmann_calendar import (
    STATE_CODES,
    promo_days,
    school_holidays,
    state_holidays,
    weekdays,
)
from embedline.sources.rossmann_files import TABLE_COLUMNS
from embedline.sources.rossmann_law import STORE_TYPES, Conditions, expected_log_sales
from embedline.sources.rossmann_stores import Stores, generate_stores
from embedline.sources.rossmann_surroundings import (
    TREND_STATES,
    Trends,
    Weather,
    generate_trends,
    generate_weather,
)

_GAP = (np.datetime64("2014-07-01"), np.datetime64("2014-12-31"))  # as in the originals, for a sixth of the stores
_BLANK_OPEN_DAYS = 11
_BASKETS = np.array([8.8, 5.1, 8.6, 11.3])  # mean sales a customer, by store type
_UNSOLD_SHARE = 6e-5  # open days without sales: 54 of 844,392 in the originals
_FAR = 10_000  # days to a holiday that never comes


class GeneratorOptions(BaseModel):
    """What to generate. The defaults have the real calendar, so that the real splits lie inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_stores: int = Field(default=60, ge=4)
    seed: int = Field(default=0, ge=0)
    noise: float = Field(default=0.08, ge=0, allow_inf_nan=False, description="sd of the noise of log sales")
    first_day: dt.date = dt.date(2013, 1, 1)
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
    """Generate the seven tables; equal options give equal bytes.

    The noise is drawn apart from all else: with another ``noise`` only ``Sales`` and ``Customers`` change, and with
    ``noise=0`` the sales have the true effects alone.

    Returns:
        CSV bytes, keyed and laid out like `rossmann_files.TABLE_COLUMNS`.
    """
    for_stores, for_weather, for_trends, for_days, for_noise = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence(options.seed).spawn(5)
    )
    days = np.arange(np.datetime64(options.first_day), np.datetime64(options.test_last_day) + 1)
    stores = generate_stores(options.n_stores, for_stores)
    weather = generate_weather(days, for_weather)
    trends = generate_trends(days, for_trends)
    grid = _grid(
        days=days, stores=stores, weather=weather, trends=trends, options=options, rng=for_days, noise_rng=for_noise
    )

    is_test = pl.col("Date") > options.last_day
    train = grid.filter(~is_test & ~pl.col("absent"))
    test = grid.filter(is_test & pl.col("in_test")).with_columns(
        pl.when("blank_open").then(None).otherwise("Open").alias("Open"),
        pl.int_range(1, pl.len() + 1).alias("Id"),
    )
    names = pl.DataFrame({"StateName": list(STATE_CODES), "State": list(STATE_CODES.values())})
    quoted = ("StateHoliday", "SchoolHoliday")
    return {
        "train": _quoted_csv("train", train, quoted),
        "test": _quoted_csv("test", test, quoted),
        "store": _quoted_csv("store", stores.table(), ("StoreType", "Assortment", "PromoInterval")),
        "store_states": _plain_csv("store_states", stores.states_table()).replace(b"\n", b"\r\n"),
        "state_names": _plain_csv("state_names", names),
        "googletrend": _plain_csv("googletrend", trends.table),
        "weather": _plain_csv("weather", weather.table),
    }


def _grid(
    *,
    days: NDArray[np.datetime64],
    stores: Stores,
    weather: Weather,
    trends: Trends,
    options: GeneratorOptions,
    rng: np.random.Generator,
    noise_rng: np.random.Generator,
) -> pl.DataFrame:
    """Return one row a day and store, newest day first: the columns of train and test and which rows belong to them."""
    shape = (len(days), options.n_stores)
    states, state = np.unique(stores.states, return_inverse=True)
    holidays = state_holidays(days, list(states))[:, state]
    school = school_holidays(days, list(states))[:, state]
    promo = promo_days(days)
    is_test = (days > np.datetime64(options.last_day))[:, None]
    is_open, absent = _opening(days, holidays != "0", stores.types, ~is_test, rng)
    in_test, blank_open = _test_stores(days, stores.types, is_test, rng)

    conditions = _conditions(
        days=days, stores=stores, weather=weather, trends=trends, holiday=holidays != "0", school=school, promo=promo
    )
    log_sales = expected_log_sales(conditions) + options.noise * noise_rng.standard_normal(shape)
    sales = np.where(is_open, np.maximum(1, np.rint(np.exp(log_sales))), 0)
    sold = np.flatnonzero(is_open & ~is_test & ~absent)
    sales.flat[rng.choice(sold, size=max(1, round(_UNSOLD_SHARE * len(sold))), replace=False)] = 0
    basket = _BASKETS[stores.types] * np.exp(rng.normal(0, 0.05, shape))
    customers = np.where(sales > 0, np.maximum(1, np.rint(sales / basket)), 0)

    by_day = {"DayOfWeek": weekdays(days), "Date": days, "Promo": promo.astype(int)}
    by_store_and_day = {
        "Sales": sales.astype(np.int64),
        "Customers": customers.astype(np.int64),
        "Open": is_open.astype(int),
        "StateHoliday": holidays,
        "SchoolHoliday": school.astype(int),
        "absent": absent,
        "in_test": in_test,
        "blank_open": blank_open,
    }
    return pl.DataFrame(
        {"Store": np.tile(np.arange(1, shape[1] + 1), shape[0])}
        | {name: np.repeat(values[::-1], shape[1]) for name, values in by_day.items()}
        | {name: values[::-1].ravel() for name, values in by_store_and_day.items()}
    )


def _opening(
    days: NDArray[np.datetime64],
    holiday: NDArray[np.bool_],
    types: NDArray[np.int64],
    is_train: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
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


def _test_stores(
    days: NDArray[np.datetime64], types: NDArray[np.int64], is_test: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which stores and days the test table has, and where its ``Open`` is blank: one store's last days."""
    n_stores = len(types)
    chosen = rng.permutation(n_stores)[: max(2, round(0.768 * n_stores))]
    in_test = is_test & np.isin(np.arange(n_stores), chosen)
    blank_store = next(store for store in chosen if types[store] != STORE_TYPES.index("b"))
    workdays = np.flatnonzero(is_test[:, 0] & (weekdays(days) != 7))
    blank = np.zeros_like(in_test)
    blank[workdays[-_BLANK_OPEN_DAYS:], blank_store] = True
    return in_test, blank


def _conditions(
    *,
    days: NDArray[np.datetime64],
    stores: Stores,
    weather: Weather,
    trends: Trends,
    holiday: NDArray[np.bool_],
    school: NDArray[np.bool_],
    promo: NDArray[np.bool_],
) -> Conditions:
    """Bring weather, trends, competition and holidays to one row a day and one column a store."""
    codes = list(STATE_CODES.values())
    at_state = [codes.index(state) for state in stores.states]
    regions = ["HB,NI" if state == "NI" else state for state in TREND_STATES]
    at_region = [1 + regions.index(state) for state in stores.states]
    week = (days - trends.first_sunday).astype(int) // 7
    months = (days.astype("datetime64[M]").astype(int) + 12 * 1970)[:, None]
    opened = 12 * stores.competition_year + stores.competition_month - 1
    in_interval = (months % 12) % 3 == stores.promo2_interval
    return Conditions(
        days=days,
        levels=stores.levels,
        types=stores.types,
        promo=promo,
        days_to_holiday=_days_since(holiday[::-1])[::-1],
        days_since_holiday=_days_since(holiday),
        school_holiday=school,
        competition_distance=stores.competition_distance,
        competition_months=months - opened,
        promo2=in_interval & (days[:, None] >= _mondays(stores.promo2_year, stores.promo2_week)),
        temperature=weather.temperature[:, at_state],
        rain=weather.rain[:, at_state],
        snow=weather.snow[:, at_state],
        trend=trends.values[week][:, at_region],
        trend_national=trends.values[week, 0],
    )


def _days_since(event: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the number of days since the last event in each column, 0 on its day, `_FAR` before the first."""
    place = np.arange(len(event))[:, None]
    last = np.maximum.accumulate(np.where(event, place, -_FAR), axis=0)
    return np.minimum(place - last, _FAR)


def _mondays(years: NDArray[np.float64], weeks: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Return the Monday of each ISO week, a day far ahead where it is unknown."""
    known = ~np.isnan(years)
    january_4 = (np.where(known, years, 2200).astype(int) - 1970).astype("datetime64[Y]").astype("datetime64[D]") + 3
    return january_4 - (weekdays(january_4) - 1) + 7 * (np.where(known, weeks, 1).astype(int) - 1)


def _quoted_csv(table: str, frame: pl.DataFrame, quoted: Collection[str]) -> bytes:
    """Write Kaggle's style of CSV: names and some columns in quotes, blanks unquoted but for those columns."""
    cells = [
        (pl.format('"{}"', pl.col(name).cast(pl.String)) if name in quoted else pl.col(name).cast(pl.String))
        .fill_null("")
        .alias(f'"{name}"')
        for name in TABLE_COLUMNS[table]
    ]
    return _bytes(frame.select(cells), quote_style="never")


def _plain_csv(table: str, frame: pl.DataFrame) -> bytes:
    """Write CSV with quotes where a comma asks for them."""
    return _bytes(frame.select(TABLE_COLUMNS[table]), quote_style="necessary")


def _bytes(frame: pl.DataFrame, quote_style: Literal["necessary", "never"]) -> bytes:
    buffer = io.BytesIO()
    frame.write_csv(buffer, quote_style=quote_style)
    return buffer.getvalue()
