"""Calendar arithmetic against Python's own, over 160 years, and windows within a group, in the order of days."""

from datetime import date, datetime, timedelta

import narwhals as nw
import pytest

from embedline.frames.days import (
    add_date_parts,
    add_gaps,
    add_neighbours,
    add_window_sums,
    day_number,
    day_number_of,
    days_from_next,
    days_since,
    iso_week,
    monday_of_week,
    periods_since,
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


@pytest.mark.parametrize(("length", "cap", "counts"), [(30, 24, [0, 0, 0, 1, 24, 0]), (7, 25, [0, 0, 4, 4, 25, 0])])
def test_periods_have_a_length_and_a_cap_and_none_where_the_start_is_unknown(
    build: Build, length: int, cap: int, counts: list[int]
) -> None:
    frame = build({"day": [1000] * 6, "start": [1001, 1000, 971, 970, 280, 100], "year": [2013] * 5 + [1900]})
    periods = periods_since(nw.col("start"), day="day", start_year="year", length=length, cap=cap)
    assert values(frame.with_columns(periods=periods), "periods") == counts


# Group 1 has no row for day 13; group 2 never has the event. Rows stand in no order.
EVENTS = {
    "group": [1, 2, 1, 1, 2, 1, 1],
    "day": [12, 10, 10, 14, 11, 11, 15],
    "event": [0, 0, 0, 1, 0, 1, 0],
}


def by_day(frame, name: str) -> list:
    return values(frame.sort("group", "day"), name)


def test_days_since_the_last_event(build: Build) -> None:
    frame = build(EVENTS).with_columns(since=days_since(nw.col("event") == 1, day="day", group="group"))
    assert by_day(frame, "since") == [None, 0, 1, 0, 1, None, None]
    assert frame.collect_schema()["since"] == nw.Float32


def test_days_to_the_next_event_count_down_and_are_missing_when_it_never_comes(build: Build) -> None:
    frame = build(EVENTS).with_columns(until=days_from_next(nw.col("event") == 1, day="day", group="group"))
    assert by_day(frame, "until") == [-1, 0, -2, 0, None, None, None]
    assert frame.collect_schema()["until"] == nw.Float32


def test_gaps_leave_the_row_itself_out(build: Build) -> None:
    event = nw.col("event") == 1
    frame = add_gaps(build(EVENTS), event, day="day", group="group", before="before", after="after")
    assert by_day(frame, "before") == [None, None, 0, 2, 0, None, None]
    assert by_day(frame, "after") == [0, 2, 1, None, None, None, None]
    assert frame.collect_schema().names() == ["group", "day", "event", "before", "after"]


# Group 1 has no row on day 3; the rows are not in order.
OPENINGS = {
    "group": [1, 1, 1, 2, 1, 2],
    "day": [5, 1, 2, 2, 4, 1],
    "open": [1, 0, 1, 1, 0, 0],
    "promo": [0, 1, 1, 0, 1, 1],
}


FLAGS = ("open", "promo")


def test_neighbours_are_those_of_the_day_not_of_the_row(build: Build) -> None:
    found = add_neighbours(
        build(OPENINGS),
        {-1: ("Before", FLAGS), 1: ("After", FLAGS), 2: ("Later", FLAGS)},
        day="day",
        group="group",
    )
    rows = {
        (group, day): place
        for place, (group, day) in enumerate(zip(values(found, "group"), values(found, "day"), strict=True))
    }
    for flag in FLAGS:
        given = {
            (group, day): value
            for group, day, value in zip(OPENINGS["group"], OPENINGS["day"], OPENINGS[flag], strict=True)
        }
        for offset, suffix in ((-1, "Before"), (1, "After"), (2, "Later")):
            column = values(found, flag + suffix)
            for (group, day), place in rows.items():
                assert column[place] == given.get((group, day + offset)), (flag, suffix, group, day)


# Counts are over rows, not days: shorter at the ends of a group, never across groups.
FLAG_ROWS = {
    "group": [1, 1, 1, 1, 2, 2],
    "day": [4, 1, 2, 9, 1, 2],
    "flag": [1, 1, 0, 1, 1, 1],
    "other": [0, 1, 1, 1, 0, 0],
    "all": [1, 1, 1, 1, 1, 1],
}


def test_backward_and_forward_sums(build: Build) -> None:
    frame = add_window_sums(build(FLAG_ROWS), ("flag", "other", "all"), window=3, order="day", group="group")
    frame = frame.sort("group", "day")
    assert values(frame, "flag_bw") == [1, 1, 2, 2, 1, 2]
    assert values(frame, "flag_fw") == [2, 2, 2, 1, 2, 1]
    assert values(frame, "other_bw") == [1, 2, 2, 2, 0, 0]
    assert values(frame, "other_fw") == [2, 2, 1, 1, 0, 0]
    assert values(frame, "all_bw") == [1, 2, 3, 3, 1, 2]
    assert values(frame, "all_fw") == [3, 3, 2, 1, 2, 1]
    assert frame.collect_schema()["flag_bw"] == nw.Int8
    assert frame.collect_schema().names() == [
        *FLAG_ROWS,
        *(f"{name}{side}" for side in ("_bw", "_fw") for name in list(FLAG_ROWS)[2:]),
    ]


@pytest.mark.parametrize("window", [1, 100])
def test_windows_of_one_row_and_of_more_than_the_group(build: Build, window: int) -> None:
    frame = add_window_sums(build(FLAG_ROWS), ("flag", "other", "all"), window=window, order="day", group="group")
    frame = frame.sort("group", "day")
    assert values(frame, "flag_bw") == ([1, 0, 1, 1, 1, 1] if window == 1 else [1, 1, 2, 3, 1, 2])
    assert values(frame, "all_fw") == ([1] * 6 if window == 1 else [4, 3, 2, 1, 2, 1])
