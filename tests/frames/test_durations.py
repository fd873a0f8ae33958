"""Whole months and weeks since a start: 0 before it, capped, 0 when the start is not known."""

import narwhals as nw

from embedline.frames.durations import months_open, weeks_running
from frames.conftest import Build, values


def test_months_have_thirty_days_and_a_cap(build: Build) -> None:
    frame = build({"day": [1000] * 6, "start": [1001, 1000, 971, 970, 280, 100], "year": [2013] * 5 + [1900]})
    frame = frame.with_columns(months=months_open(day="day", start=nw.col("start"), start_year="year", cap=24))
    assert values(frame, "months") == [0, 0, 0, 1, 24, 0]


def test_weeks_have_a_cap_of_their_own(build: Build) -> None:
    frame = build({"day": [1000] * 5, "start": [1014, 994, 993, 825, 700], "year": [2010] * 5})
    frame = frame.with_columns(weeks=weeks_running(day="day", start=nw.col("start"), start_year="year", cap=25))
    assert values(frame, "weeks") == [0, 0, 1, 25, 25]
