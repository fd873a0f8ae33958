"""Blocks of the horizon: their numbers and days, and where the window comes from."""

from datetime import date
from typing import Literal

import narwhals as nw
import pytest

from embedline.errors import DataError
from embedline.pipelines.rossmann.horizon import HorizonBlocks, horizon_blocks
from embedline.pipelines.tabular.columns import Split
from frames.conftest import ENGINES, Build, values
from pipelines.rossmann.conftest import FORECAST

EPOCH = date(1970, 1, 1)


@pytest.fixture(params=list(ENGINES))
def build(request: pytest.FixtureRequest) -> Build:
    """Make a Narwhals frame of one engine from columns."""
    return ENGINES[request.param]


def test_blocks_have_the_length_of_the_window_and_all_days_after_it_are_one(build: Build) -> None:
    blocks = HorizonBlocks(start=1000, end=1006)
    days = [985, 986, 992, 993, 999, 1000, 1006, 1007, 1013, 1014, 5000]
    frame = build({"DayNumber": days}).with_columns(block=blocks.number(nw.col("DayNumber")))
    frame = frame.with_columns(first=blocks.first_day(nw.col("block")))
    assert values(frame, "block") == [-3, -2, -2, -1, -1, 0, 0, 1, 1, 1, 1]
    assert values(frame, "first") == [979, 986, 986, 993, 993, 1000, 1000, 1007, 1007, 1007, 1007]
    assert frame.collect_schema()["block"] == nw.Int32
    assert blocks.numbers(985, 5000) == range(-3, 2)
    assert blocks.numbers(1006, 1006) == range(1)
    assert (blocks.length, blocks.first_day(-2)) == (7, 986)


def test_the_window_of_the_split_is_block_0() -> None:
    blocks = horizon_blocks(FORECAST, None, 42)
    assert blocks == HorizonBlocks((date(2015, 6, 19) - EPOCH).days, (date(2015, 7, 31) - EPOCH).days)
    assert blocks.length == 43
    assert blocks.window() == FORECAST
    assert horizon_blocks(blocks.window(), None, 42) == blocks


@pytest.mark.parametrize("kind", ["none", "random", "folds"])
def test_without_a_window_it_is_the_last_days_with_sales(
    build: Build, kind: Literal["none", "random", "folds"]
) -> None:
    sales = build({"DayNumber": [3000, 3001, 2990, 3002], "Sales": [5.0, 0.0, 7.0, None]})
    assert horizon_blocks(Split(kind=kind), sales, 10) == HorizonBlocks(2992, 3001)
    unlabelled = build({"DayNumber": [3000], "Sales": [7.0]}).filter(nw.col("Sales") < 0)
    with pytest.raises(DataError, match=rf"^rossmann\.sales: no row has Sales, so that split\.kind '{kind}'"):
        horizon_blocks(Split(kind=kind), unlabelled, 10)
