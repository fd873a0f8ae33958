"""Counts over rows, not days: shorter at the ends of a group, never across groups."""

import narwhals as nw

from embedline.frames.rolling import backward_sum, forward_sum
from frames.conftest import Build, values

FRAME = {
    "group": [1, 1, 1, 1, 2, 2],
    "day": [4, 1, 2, 9, 1, 2],
    "flag": [1, 1, 0, 1, 1, 1],
}


def test_backward_and_forward_sums(build: Build) -> None:
    frame = build(FRAME).with_columns(nw.col("flag").cast(nw.Int8), back=-nw.col("day"))
    frame = frame.with_columns(
        bw=backward_sum("flag", window=3, order="day", group="group"),
        fw=forward_sum("flag", window=3, reversed_order="back", group="group"),
    ).sort("group", "day")
    assert values(frame, "bw") == [1, 1, 2, 2, 1, 2]
    assert values(frame, "fw") == [2, 2, 2, 1, 2, 1]
    assert [frame.collect_schema()[name] for name in ("bw", "fw")] == [nw.Int8, nw.Int8]
