"""Calendar arithmetic against Python's own, over 160 years."""

from datetime import date, datetime, timedelta

import narwhals as nw

from embedline.frames.dates import (
    add_date_parts,
    day_number,
    day_number_of,
    iso_week,
    monday_of_week,
    months_open,
    weeks_running,
)
from frames.conftest import Build, values

DAYS = [datetime(1955, 1, 1) + timedelta(days=step) for step in range(58_000)]
EPOCH = date(1970, 1, 1)


def test_day_numbers_count_from_1970(build: Build) -> None:
    frame = build({"Date": DAYS}).with_columns(number=day_number(nw.col("Date")))
    assert values(frame, "number") == [(day.date() - EPOCH).days for day in DAYS]


def test_weeks_are_iso_weeks(build: Build) -> None:
    frame = build({"Date": DAYS}).with_columns(week=iso_week(nw.col("Date")))
    assert values(frame, "week") == [day.isocalendar().week for day in DAYS]


def test_date_parts(build: Build) -> None:
    frame = add_date_parts(build({"Date": [datetime(2013, 12, 31), datetime(2015, 7, 4)]}))
    assert [values(frame, name) for name in ("Year", "Month", "Week", "Day")] == [
        [2013, 2015],
        [12, 7],
        [1, 27],
        [31, 4],
    ]


def test_day_number_of_a_month(build: Build) -> None:
    months = [(year, month) for year in range(1899, 2102) for month in range(1, 13)]
    frame = build({"year": [year for year, _ in months], "month": [month for _, month in months]})
    frame = frame.with_columns(number=day_number_of(nw.col("year"), nw.col("month"), 15))
    assert values(frame, "number") == [(date(year, month, 15) - EPOCH).days for year, month in months]


def test_monday_of_an_iso_week(build: Build) -> None:
    weeks = sorted({(day.isocalendar().year, day.isocalendar().week) for day in DAYS} | {(1900, 1), (2009, 53)})
    frame = build({"year": [year for year, _ in weeks], "week": [week for _, week in weeks]})
    frame = frame.with_columns(number=monday_of_week(nw.col("year"), nw.col("week")))
    assert values(frame, "number") == [(date.fromisocalendar(year, week, 1) - EPOCH).days for year, week in weeks]


def test_months_have_thirty_days_and_a_cap(build: Build) -> None:
    frame = build({"day": [1000] * 6, "start": [1001, 1000, 971, 970, 280, 100], "year": [2013] * 5 + [1900]})
    frame = frame.with_columns(months=months_open(day="day", start=nw.col("start"), start_year="year", cap=24))
    assert values(frame, "months") == [0, 0, 0, 1, 24, 0]


def test_weeks_have_a_cap_of_their_own(build: Build) -> None:
    frame = build({"day": [1000] * 5, "start": [1014, 994, 993, 825, 700], "year": [2010] * 5})
    frame = frame.with_columns(weeks=weeks_running(day="day", start=nw.col("start"), start_year="year", cap=25))
    assert values(frame, "weeks") == [0, 0, 1, 25, 25]
