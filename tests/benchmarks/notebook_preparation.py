"""The preparation of fast.ai's lesson-3 notebook, rewritten in its manner in plain pandas: the benchmark's opponent.

Kept as the notebook has it: frames of wide types, date parts for every table, a Python loop over all rows for the days
since and until each event, a row-wise apply for the ISO weeks, groupby-rolling windows, and merges of whole frames.
"""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

DATE_PARTS = (
    "year month day dayofweek dayofyear "
    "is_month_end is_month_start is_quarter_end is_quarter_start is_year_end is_year_start"
).split()
EVENTS = ["SchoolHoliday", "StateHoliday", "Promo"]


def prepare(raw: Path, out: Path) -> pd.DataFrame:
    """Read the CSV files in ``raw``, save the joined tables and the event features in ``out``, return the first."""
    names = ["train", "store", "store_states", "state_names", "googletrend", "weather", "test"]
    tables = [pd.read_csv(raw / f"{name}.csv", low_memory=False) for name in names]
    train, store, store_states, state_names, trends, weather, test = tables
    train.StateHoliday = train.StateHoliday != "0"
    test.StateHoliday = test.StateHoliday != "0"
    weather = _join(weather, state_names, "file", "StateName")
    trends["Date"] = trends.week.str.split(" - ", expand=True)[0]
    trends["State"] = trends.file.str.split("_", expand=True)[2]
    trends.loc[trends.State == "NI", "State"] = "HB,NI"
    for table in (weather, trends, train, test):
        _add_date_parts(table)
    national = trends[trends.file == "Rossmann_DE"]
    store = _join(store, store_states, "Store")
    joined, joined_test = (_join_all(table, store, trends, national, weather) for table in (train, test))
    for table in (joined, joined_test):
        _add_durations(table)
    columns = ["Date", "Store", *EVENTS]
    events = _event_features(pd.concat([train[columns], test[columns]]))
    events.to_feather(out / "df.feather")
    events["Date"] = pd.to_datetime(events.Date)
    joined, joined_test = (_join(table, events, ["Store", "Date"]) for table in (joined, joined_test))
    joined = joined[joined.Sales != 0]
    joined = joined.reset_index()
    joined_test = joined_test.reset_index()
    joined.to_feather(out / "joined.feather")
    joined_test.to_feather(out / "joined_test.feather")
    return joined


def _join(left: pd.DataFrame, right: pd.DataFrame, left_on, right_on=None) -> pd.DataFrame:
    joined = left.merge(right, how="left", left_on=left_on, right_on=right_on or left_on, suffixes=("", "_y"))
    # The notebook drops the doubles after all joins; pandas 3 no longer takes two columns of one name.
    return joined.drop(columns=[name for name in joined.columns if name.endswith("_y")])


def _add_date_parts(table: pd.DataFrame) -> None:
    table["Date"] = pd.to_datetime(table["Date"])
    for part in DATE_PARTS:
        table[part.capitalize()] = getattr(table["Date"].dt, part)
    table["Week"] = table["Date"].dt.isocalendar().week.astype(np.int64)
    table["Elapsed"] = table["Date"].astype(np.int64) // 10**9


def _join_all(table, store, trends, national, weather) -> pd.DataFrame:
    joined = _join(table, store, "Store")
    joined = _join(joined, trends, ["State", "Year", "Week"])
    joined = joined.merge(national, "left", ["Year", "Week"], suffixes=("", "_DE"))
    return _join(joined, weather, ["State", "Date"])


def _add_durations(table: pd.DataFrame) -> None:
    for column, fill in (
        ("CompetitionOpenSinceYear", 1900),
        ("CompetitionOpenSinceMonth", 1),
        ("Promo2SinceYear", 1900),
        ("Promo2SinceWeek", 1),
    ):
        table[column] = table[column].fillna(fill).astype(np.int32)
    opened = {"year": table.CompetitionOpenSinceYear, "month": table.CompetitionOpenSinceMonth, "day": 15}
    table["CompetitionOpenSince"] = pd.to_datetime(opened)
    table["CompetitionDaysOpen"] = table.Date.subtract(table.CompetitionOpenSince).dt.days
    table.loc[table.CompetitionDaysOpen < 0, "CompetitionDaysOpen"] = 0
    table.loc[table.CompetitionOpenSinceYear < 1990, "CompetitionDaysOpen"] = 0
    table["CompetitionMonthsOpen"] = table.CompetitionDaysOpen // 30
    table.loc[table.CompetitionMonthsOpen > 24, "CompetitionMonthsOpen"] = 24
    table["Promo2Since"] = pd.to_datetime(
        table.apply(lambda row: date.fromisocalendar(row.Promo2SinceYear, row.Promo2SinceWeek, 1), axis=1)
    )
    table["Promo2Days"] = table.Date.subtract(table.Promo2Since).dt.days
    table.loc[table.Promo2Days < 0, "Promo2Days"] = 0
    table.loc[table.Promo2SinceYear < 1990, "Promo2Days"] = 0
    table["Promo2Weeks"] = table.Promo2Days // 7
    table.loc[table.Promo2Weeks < 0, "Promo2Weeks"] = 0
    table.loc[table.Promo2Weeks > 25, "Promo2Weeks"] = 25


def _event_features(events: pd.DataFrame) -> pd.DataFrame:
    for event in EVENTS:
        events = events.sort_values(["Store", "Date"])
        events["After" + event] = _elapsed(events, event)
        events = events.sort_values(["Store", "Date"], ascending=[True, False])
        events["Before" + event] = _elapsed(events, event)
    events = events.set_index("Date")
    for side in ("Before", "After"):
        for event in EVENTS:
            events[side + event] = events[side + event].fillna(0).astype(int)
    flags = events[["Store", *EVENTS]]
    backward = flags.sort_index().groupby("Store").rolling(7, min_periods=1).sum()
    forward = flags.sort_index(ascending=False).groupby("Store").rolling(7, min_periods=1).sum()
    for sums in (backward, forward):
        sums.drop(columns="Store", errors="ignore", inplace=True)
        sums.reset_index(inplace=True)
    events = events.reset_index()
    events = events.merge(backward, "left", ["Date", "Store"], suffixes=("", "_bw"))
    events = events.merge(forward, "left", ["Date", "Store"], suffixes=("", "_fw"))
    return events.drop(columns=EVENTS)


def _elapsed(events: pd.DataFrame, event: str) -> list[float]:
    day = np.timedelta64(1, "D")
    last_date, last_store = np.datetime64("NaT"), 0
    result = []
    for store, happens, when in zip(events.Store.values, events[event].values, events.Date.values, strict=True):
        if store != last_store:
            last_date, last_store = np.datetime64("NaT"), store
        if happens:
            last_date = when
        result.append((when - last_date).astype("timedelta64[D]") / day)
    return result
