"""The opening-calendar features against plain Python, one row at a time, on real rows and on small tables."""

import itertools
import math
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from embedline.pipelines.rossmann.files import read_tables
from pipelines.rossmann.conftest import ENGINES, LESSONS, Rows, column, prepare, rows_of_stores

STORES = ("13", "20", "85", "262", "622", "988")  # half a year missing, refurbished, open on Sundays, no first day
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec")


def slow_calendar(rows: Rows, store: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Features by date of one store's rows (train and test together)."""
    by_day = {date.fromisoformat(row["Date"]): row for row in rows}
    open_days = sorted(day for day, row in by_day.items() if (row["Open"] or "1") == "1")
    found = {}
    for day, row in by_day.items():
        features: dict[str, Any] = {}
        for offset, suffix in ((-1, "Yesterday"), (1, "Tomorrow")):
            other = by_day.get(day + timedelta(offset))
            flags = {
                "Open": other and float(other["Open"] or 1),
                "StateHoliday": other and float(other["StateHoliday"] != "0"),
                "SchoolHoliday": other and float(other["SchoolHoliday"]),
                "Promo": other and float(other["Promo"]),
            }
            if suffix == "Yesterday":
                flags.pop("SchoolHoliday")
            features |= {name + suffix: value for name, value in flags.items()}
        in_two = by_day.get(day + timedelta(2))
        features["StateHolidayInTwoDays"] = in_two and float(in_two["StateHoliday"] != "0")
        monday = day - timedelta(day.weekday())
        week = [by_day[other] for k in range(7) if (other := monday + timedelta(k)) in by_day]
        features["OpenDaysInWeek"] = sum((other["Open"] or "1") == "1" for other in week)
        features["PromoDay"] = 0
        if row["Promo"] == "1":
            start = day
            while by_day.get(start - timedelta(1), {}).get("Promo") == "1":
                start -= timedelta(1)
            features["PromoDay"] = (day - start).days + 1
        features |= _closures(day, open_days)
        active = store["Promo2"] == "1" and MONTHS[day.month - 1] in store["PromoInterval"].split(",")
        if active:
            active = day >= date.fromisocalendar(int(store["Promo2SinceYear"]), int(store["Promo2SinceWeek"]), 1)
        features["Promo2Active"] = int(active)
        features["DaysLeftInMonth"] = min(10, ((day.replace(day=28) + timedelta(4)).replace(day=1) - day).days - 1)
        found[row["Date"]] = features
    return found


def _closures(day: date, open_days: list[date]) -> dict[str, Any]:
    earlier = [other for other in open_days if other < day]
    later = [other for other in open_days if other > day]
    before = (day - earlier[-1]).days - 1 if earlier else None
    after = (later[0] - day).days - 1 if later else None
    gaps = list(itertools.pairwise(open_days))
    long = [(first, second) for first, second in gaps if (second - first).days - 1 >= 5]
    past = [(first, second) for first, second in long if second <= day]
    ahead = [first for first, _ in long if first >= day]
    since = (day - past[-1][1]).days if past else None
    until = (ahead[0] - day).days if ahead else None
    length = (past[-1][1] - past[-1][0]).days - 1 if past else 0
    return {
        "DaysClosedBefore": None if before is None else min(before, 8),
        "DaysClosedAfter": None if after is None else min(after, 8),
        "DaysSinceReopening": since if since is not None and since <= 25 else None,
        "DaysUntilClosing": until if until is not None and until <= 25 else None,
        "SinceReopening": 0.0 if since is None else math.exp(-since / 40),
        "UntilClosing": 0.0 if until is None else math.exp(-until / 15),
        "ClosureLength": math.log(length + 1) if since is not None and since <= 120 else 0.0,
    }


@pytest.fixture(scope="module")
def some(real_data: Path) -> dict[str, Rows]:
    return rows_of_stores(read_tables(str(real_data / "rossmann.tgz")), STORES)


@pytest.mark.parametrize("engine", [ENGINES["polars"], ENGINES["pandas"]], ids=["polars", "pandas"])
def test_calendar_features_equal_the_row_by_row_reference(some: dict[str, Rows], engine: Callable[[Rows], Any]) -> None:
    table = prepare(some, engine, LESSONS)
    stores, days = column(table, "Store"), [str(value)[:10] for value in column(table, "Date")]
    rows = some["train"] + some["test"]
    described = {row["Store"]: row for row in some["store"]}
    expected = {
        store: slow_calendar([row for row in rows if row["Store"] == store], described[store]) for store in STORES
    }
    names = list(expected[STORES[0]][days[0]])
    assert len(names) == 19
    for name in names:
        wanted = [expected[str(store)][day][name] for store, day in zip(stores, days, strict=True)]
        assert len(set(wanted)) > 1, f"{name} is constant on these rows"
        assert column(table, name) == pytest.approx(wanted, abs=1e-6, nan_ok=True), name


def test_times_of_the_year_and_distances(small: dict[str, Rows], engine: Callable[[Rows], Any]) -> None:
    table = prepare(small, engine)
    rows = [(store, str(day)[:10]) for store, day in zip(column(table, "Store"), column(table, "Date"), strict=True)]
    first = rows.index((1, "2015-07-29"))
    days = (date(2015, 7, 29) - date(1970, 1, 1)).days
    assert column(table, "SeasonSin1")[first] == pytest.approx(math.sin(2 * math.pi * days / 365.25), abs=1e-5)
    assert column(table, "SeasonCos2")[first] == pytest.approx(math.cos(4 * math.pi * days / 365.25), abs=1e-5)
    assert column(table, "LogCompetitionDistance")[first] == pytest.approx(math.log(1271), rel=1e-6)
    # The competitor opened in May 2015, counted from the 15th; store 2 knows of none.
    since = (date(2015, 7, 29) - date(2015, 5, 15)).days / 180
    assert column(table, "CompetitionSince")[first] == pytest.approx(since, rel=1e-6)
    second = rows.index((2, "2015-07-31"))
    assert column(table, "CompetitionSince")[second] == -2.0
    assert column(table, "LogCompetitionDistance")[second] is None
    assert column(table, "DaysUntilStateHoliday")[first] == 1.0
    assert column(table, "DaysSincePromo")[first] == 0.0
