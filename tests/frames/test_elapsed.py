"""Days since, days until, and gaps, on two groups with a day missing and out of order."""

import narwhals as nw
import pytest

from embedline.frames.elapsed import add_gaps, days_from_next, days_since
from frames.conftest import Build, values

# Group 1 has no row for day 13; group 2 never has the event. Rows stand in no order.
FRAME = {
    "group": [1, 2, 1, 1, 2, 1, 1],
    "day": [12, 10, 10, 14, 11, 11, 15],
    "event": [0, 0, 0, 1, 0, 1, 0],
}


def by_day(frame, name: str) -> list:
    return values(frame.sort("group", "day"), name)


def test_days_since_the_last_event(build: Build) -> None:
    frame = build(FRAME).with_columns(since=days_since(nw.col("event") == 1, day="day", group="group"))
    assert by_day(frame, "since") == [None, 0, 1, 0, 1, None, None]
    assert frame.collect_schema()["since"] == nw.Float32


def test_days_to_the_next_event_count_down_and_are_missing_when_it_never_comes(build: Build) -> None:
    frame = build(FRAME).with_columns(until=days_from_next(nw.col("event") == 1, day="day", group="group"))
    assert by_day(frame, "until") == [-1, 0, -2, 0, None, None, None]
    assert frame.collect_schema()["until"] == nw.Float32


def test_gaps_leave_the_row_itself_out(build: Build) -> None:
    event = nw.col("event") == 1
    frame = add_gaps(build(FRAME), event, day="day", group="group", before="before", after="after")
    assert by_day(frame, "before") == [None, None, 0, 2, 0, None, None]
    assert by_day(frame, "after") == [0, 2, 1, None, None, None, None]
    assert frame.collect_schema().names() == ["group", "day", "event", "before", "after"]


@pytest.mark.parametrize("name", ["group", "day", "event"])
def test_the_input_columns_are_left_as_they_are(build: Build, name: str) -> None:
    frame = build(FRAME).with_columns(since=days_since(nw.col("event") == 1, day="day", group="group"))
    assert values(frame, name) == FRAME[name]
