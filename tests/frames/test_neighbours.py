"""Flags on the days around a row, and the day of a run."""

import narwhals as nw

from embedline.frames.neighbours import add_neighbours, day_of_run
from frames.conftest import Build, values

# Group 1 has no row on day 3; the rows are not in order.
ROWS = {
    "group": [1, 1, 1, 2, 1, 2],
    "day": [5, 1, 2, 2, 4, 1],
    "open": [1, 0, 1, 1, 0, 0],
    "promo": [0, 1, 1, 0, 1, 1],
}


FLAGS = ("open", "promo")


def test_neighbours_are_those_of_the_day_not_of_the_row(build: Build) -> None:
    found = add_neighbours(
        build(ROWS),
        {-1: ("Before", FLAGS), 1: ("After", FLAGS), 2: ("Later", FLAGS)},
        day="day",
        group="group",
    )
    rows = {
        (group, day): place
        for place, (group, day) in enumerate(zip(values(found, "group"), values(found, "day"), strict=True))
    }
    for flag in FLAGS:
        given = {(group, day): value for group, day, value in zip(ROWS["group"], ROWS["day"], ROWS[flag], strict=True)}
        for offset, suffix in ((-1, "Before"), (1, "After"), (2, "Later")):
            column = values(found, flag + suffix)
            for (group, day), place in rows.items():
                assert column[place] == given.get((group, day + offset)), (flag, suffix, group, day)


def test_no_working_column_is_left(build: Build) -> None:
    found = add_neighbours(build(ROWS), {1: ("After", ["open"])}, day="day", group="group")
    assert set(found.collect_schema().names()) == {*ROWS, "openAfter"}


def test_days_of_a_run_count_from_its_start(build: Build) -> None:
    rows = build({"group": [1, 1, 1, 1, 1], "day": [1, 2, 3, 5, 6], "on": [1, 1, 0, 1, 1], "start": [1, 0, 0, 1, 0]})
    run = day_of_run(nw.col("start") == 1, nw.col("on") == 1, day="day", group="group")
    assert values(rows.with_columns(run=run), "run") == [1, 2, 0, 1, 2]
