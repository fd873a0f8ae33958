"""Counts over rows, not days: shorter at the ends of a group, never across groups."""

import narwhals as nw
import pytest

from embedline.frames.rolling import add_window_sums
from frames.conftest import Build, values

FRAME = {
    "group": [1, 1, 1, 1, 2, 2],
    "day": [4, 1, 2, 9, 1, 2],
    "flag": [1, 1, 0, 1, 1, 1],
    "other": [0, 1, 1, 1, 0, 0],
    "all": [1, 1, 1, 1, 1, 1],
}


def test_backward_and_forward_sums(build: Build) -> None:
    frame = add_window_sums(build(FRAME), ("flag", "other", "all"), window=3, order="day", group="group")
    frame = frame.sort("group", "day")
    assert values(frame, "flag_bw") == [1, 1, 2, 2, 1, 2]
    assert values(frame, "flag_fw") == [2, 2, 2, 1, 2, 1]
    assert values(frame, "other_bw") == [1, 2, 2, 2, 0, 0]
    assert values(frame, "other_fw") == [2, 2, 1, 1, 0, 0]
    assert values(frame, "all_bw") == [1, 2, 3, 3, 1, 2]
    assert values(frame, "all_fw") == [3, 3, 2, 1, 2, 1]
    assert frame.collect_schema()["flag_bw"] == nw.Int8
    assert frame.collect_schema().names() == [
        *FRAME,
        *(f"{name}{side}" for side in ("_bw", "_fw") for name in list(FRAME)[2:]),
    ]


@pytest.mark.parametrize("window", [1, 100])
def test_windows_of_one_row_and_of_more_than_the_group(build: Build, window: int) -> None:
    frame = add_window_sums(build(FRAME), ("flag", "other", "all"), window=window, order="day", group="group")
    frame = frame.sort("group", "day")
    assert values(frame, "flag_bw") == ([1, 0, 1, 1, 1, 1] if window == 1 else [1, 1, 2, 3, 1, 2])
    assert values(frame, "all_fw") == ([1] * 6 if window == 1 else [4, 3, 2, 1, 2, 1])
