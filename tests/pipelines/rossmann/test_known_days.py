"""What a row knows: no flag after its block, no sales and no weather from its block's first day on."""

from collections.abc import Callable
from datetime import date
from typing import Any

import narwhals as nw
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.horizon import HorizonBlocks, horizon_blocks
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables
from embedline.pipelines.tabular.columns import Split
from pipelines.rossmann.conftest import (
    ENGINES,
    FORECAST,
    LESSONS,
    Rows,
    column,
    make_table,
    prepare,
    read_rows,
    typed_tables,
)

Typed = dict[str, pl.DataFrame]
WINDOW, LAGGED = FeatureOptions(), FeatureOptions(conditions="lagged")
BLOCKS = horizon_blocks(FORECAST, None, 42)
NOTEBOOK = Split(kind="window", column="Date", start=date(2014, 8, 1), end=date(2014, 9, 17), train="others")
FLAGS = ("Open", "Promo", "StateHoliday", "SchoolHoliday")
CONDITIONS = (*WINDOW.weather, "trend", "trend_DE")
# Where the calendar of a block ends, these have other values than at the end of the tables, see the texts of the nodes.
AT_THE_END = {"OpenDaysInWeek", "ClosedAfter", "DaysClosedAfter", "DaysUntilClosing", "UntilClosing"}
DAY = pl.col("DayNumber")


def day_number(day: pl.Expr) -> pl.Expr:
    return day.cast(pl.Date).cast(pl.Int32)


@pytest.fixture(scope="module")
def raw() -> dict[str, Rows]:
    """Four stores with the real calendar."""
    tables = generate_tables(GeneratorOptions(n_stores=4))
    return {name: read_rows(content.decode()) for name, content in tables.items()}


@pytest.fixture(scope="module")
def typed(raw: dict[str, Rows]) -> Typed:
    return typed_tables(raw, ENGINES["polars"])


@pytest.fixture(scope="module")
def table(typed: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """``rossmann.table`` with the default options."""
    made: pl.DataFrame = make_table(typed, WINDOW)
    return made


def differing(first: pl.DataFrame, second: pl.DataFrame) -> set[str]:
    """Columns, but for the sales, that are not equal."""
    assert first.columns == second.columns and len(first) == len(second) > 0
    return {name for name in first.columns if name != "Sales" and not first[name].equals(second[name])}


def up_to(table: pl.DataFrame, day: int) -> pl.DataFrame:
    return table.filter(day_number(pl.col("Date")) <= day)


@pytest.mark.parametrize("number", [-21, -9, -1, 0])
def test_no_flag_after_a_block_changes_a_feature_of_its_rows(typed: Typed, table: pl.DataFrame, number: int) -> None:
    end = BLOCKS.first_day(number + 1) - 1
    later = DAY > end
    turned = [pl.when(later).then(1 - pl.col(name).cast(pl.Int8)).otherwise(name).alias(name) for name in FLAGS]
    sales = typed["sales"].with_columns(turned).cast({"StateHoliday": pl.Boolean})
    assert len(sales.filter(later)) > 100
    changed = make_table({**typed, "sales": sales}, WINDOW)
    # Sales stand where they were; of later rows some features do change.
    assert differing(up_to(table, end), up_to(changed, end)) == set()
    assert "Promo_bw" in differing(table, changed)
    if number == -1:
        lessons = [up_to(make_table({**typed, "sales": flags}, LESSONS), end) for flags in (typed["sales"], sales)]
        assert {"OpenTomorrow", "Promo_fw", "BeforeSchoolHoliday", "DaysClosedAfter", "OpenDaysInWeek"} <= differing(
            *lessons
        )


@pytest.mark.parametrize("features", [WINDOW, LESSONS, LAGGED], ids=["window", "all", "lagged"])
@pytest.mark.parametrize("number", [-15, -1, 0])
def test_no_sales_from_a_blocks_first_day_on_change_a_feature_of_its_rows(
    typed: Typed, features: FeatureOptions, number: int
) -> None:
    first, end = BLOCKS.first_day(number), BLOCKS.first_day(number + 1) - 1
    moved = pl.col("Sales") * 3 + (DAY % 5) * pl.col("Sales").sign()
    sales = typed["sales"].with_columns(Sales=pl.when(DAY >= first).then(moved).otherwise("Sales"))
    before, after = (make_table({**typed, "sales": rows}, features) for rows in (typed["sales"], sales))
    assert differing(up_to(before, end), up_to(after, end)) == set()
    # The next block knows them.
    assert {"SalesMedian91", "SalesMedian182", "SalesMedian364", "SalesLevel42"} <= differing(before, after)


def test_sales_of_the_window_of_an_interpolation_change_no_feature_of_any_row(typed: Typed) -> None:
    window = horizon_blocks(NOTEBOOK, None, 42)
    held_out = DAY.is_between(window.start, window.end)
    sales = typed["sales"].with_columns(Sales=pl.when(held_out).then(pl.col("Sales") * 3).otherwise("Sales"))
    before, after = (make_table({**typed, "sales": rows}, WINDOW, NOTEBOOK) for rows in (typed["sales"], sales))
    assert not before["Sales"].equals(after["Sales"])
    assert differing(before, after) == set()


@pytest.mark.parametrize("number", [-20, -1, 0])
def test_a_block_sees_what_a_calendar_that_ends_with_it_has(typed: Typed, table: pl.DataFrame, number: int) -> None:
    """Against the lessons' calendar on the sales up to the end of the block."""
    first, end = BLOCKS.first_day(number), BLOCKS.first_day(number + 1) - 1
    shorter = nodes.build_calendar(typed["sales"].filter(end >= DAY), LESSONS, FORECAST)
    calendar = nodes.build_calendar(typed["sales"], WINDOW, FORECAST)
    block = typed["sales"].filter(DAY.is_between(first, end)).select("StoreDay")
    expected, found = (block.join(frame, on="StoreDay", maintain_order="left") for frame in (shorter, calendar))
    assert len(found) >= 4 * BLOCKS.length - 43
    assert {"OpenDaysInWeek"} <= differing(expected, found) <= AT_THE_END


# Block 0 is 30 and 31 July, so that 29 July is the last day of block -1, and August is block 1. The rows are those of
# test_nodes.EXPECTED: store 1 on 29 and 31 July, 1 and 2 August (a Sunday, closed), store 2 on 31 July.
SHORT = Split(kind="window", column="Date", start=date(2015, 7, 30), end=date(2015, 7, 31))
KNOWN = {
    "BeforeStateHoliday": [None] * 5,  # that of the 30th is in the next block for the 29th
    "BeforeSchoolHoliday": [None, 0, None, None, None],
    "DaysUntilSchoolHoliday": [40, 0, 40, 40, 40],
    "SchoolHoliday_fw": [0, 1, 0, 0, 0],
    "Promo_fw": [1, 1, 0, 0, 1],
    "OpenTomorrow": [None, None, 0, None, None],
    "PromoTomorrow": [None, None, 0, None, None],
    "StateHolidayTomorrow": [None, None, 0, None, None],
    "StateHolidayInTwoDays": [None] * 5,
    "ClosedAfter": [None, None, 1, None, None],  # Sunday, at least
    "DaysClosedAfter": [None, None, 1, None, None],
    "OpenDaysInWeek": [None, None, 3, 3, None],
    # What looks back sees the blocks before.
    "AfterStateHoliday": [None, 1, 2, 3, None],
    "SchoolHoliday_bw": [0, 2, 2, 2, 0],
    "Promo_bw": [1, 2, 2, 2, 1],
    "ClosedBefore": [None, 1, 0, 0, None],
    "OpenYesterday": [None, 0, 1, 1, None],
    "PromoDay": [1, 2, 0, 0, 1],
}


def test_values_at_the_ends_of_blocks(small: dict[str, Rows], engine: Callable[[Rows], Any]) -> None:
    small["train"][1]["Promo"] = "1"  # on the 30th as well: a promotion from the 29th to the 31st
    table = prepare(small, engine, WINDOW, SHORT)
    known = {**KNOWN, "PromoDay": [1, 3, 0, 0, 1], "Promo_bw": [1, 3, 3, 3, 1]}
    assert {name: column(table, name) for name in known} == known


def test_a_store_known_to_stay_closed_is_about_to_close_for_long(typed: Typed) -> None:
    # Closed from the sixth day before the end of block -1: that it stays so is not known.
    end = BLOCKS.start - 1
    shut = (pl.col("Store") == 1) & DAY.is_between(end - 5, end + 8)
    sales = typed["sales"].with_columns(
        Open=pl.when(shut).then(0).when(Store=1).then(1).otherwise("Open").cast(pl.Int8)
    )
    calendar = nodes.build_calendar(sales, WINDOW, FORECAST)
    rows = sales.select("StoreDay", "Store", "DayNumber").join(calendar, on="StoreDay", maintain_order="left")
    last = rows.filter(DAY.is_between(end - 7, end - 6), Store=1)
    assert last["ClosedAfter"].to_list() == [0, 6]
    assert last["DaysUntilClosing"].to_list() == [1, 0]
    shut_days = rows.filter(DAY.is_between(end - 5, end), Store=1)
    assert shut_days["ClosedAfter"].to_list() == [5, 4, 3, 2, 1, None]
    reopened = rows.filter(end + 9 == DAY, Store=1)
    assert reopened["ClosedBefore"].to_list() == [14] and reopened["DaysSinceReopening"].to_list() == [0]


def test_lagged_conditions_are_those_of_the_day_before_the_block(typed: Typed, table: pl.DataFrame) -> None:
    lagged = make_table(typed, LAGGED)
    assert lagged.columns == table.columns and lagged.schema == table.schema
    assert differing(table, lagged) == set(CONDITIONS)
    weather = {(row["State"], row["DayNumber"]): row for row in typed["weather"].rows(named=True)}
    trends = {(row["State"], row["DayNumber"]): row for row in typed["trends"].rows(named=True)}
    first = typed["weather"]["DayNumber"].min()
    origins = set()
    for row in lagged.with_columns(day_number(pl.col("Date")).alias("day")).rows(named=True):
        block = min((row["day"] - BLOCKS.start) // BLOCKS.length, 1)
        origin = max(BLOCKS.first_day(block) - 1, first)
        origins.add(origin)
        known = {**weather[row["State"], origin], **trends[row["State"], origin]}
        assert {name: row[name] for name in CONDITIONS} == {name: known[name] for name in CONDITIONS}, row["Date"]
    assert {first, BLOCKS.start - 1, BLOCKS.end} <= origins and len(origins) == 23


def test_lagged_conditions_need_none_of_the_days_to_forecast(typed: Typed) -> None:
    until = {name: typed[name].filter(DAY <= BLOCKS.end) for name in ("weather", "trends")}
    assert make_table({**typed, **until}, LAGGED).equals(make_table(typed, LAGGED))
    with pytest.raises(
        DataError, match=r"^train\.csv and test\.csv: State \w\w.*, Date 2015-08-01 has no match in both"
    ):
        make_table({**typed, **until}, WINDOW)
    earlier = {name: typed[name].filter(DAY < BLOCKS.end) for name in ("weather", "trends")}
    says = r"Date 2015-08-01 has no match in both weather\.csv and googletrend\.csv on the day before its block \("
    with pytest.raises(DataError, match=says):
        make_table({**typed, **earlier}, LAGGED)


@pytest.mark.parametrize("features", [WINDOW, LAGGED], ids=["window", "lagged"])
@pytest.mark.parametrize("split", [FORECAST, Split(kind="none")], ids=["window", "none"])
def test_every_engine_makes_the_same_table(raw: dict[str, Rows], features: FeatureOptions, split: Split) -> None:
    made = {
        name: nw.from_native(prepare(raw, build, features, split)).lazy().collect("polars")
        for name, build in ENGINES.items()
    }
    expected = made["polars"].to_native().with_columns(pl.selectors.categorical().cast(pl.String))
    assert len(expected) > 3_000
    for name in ("polars-lazy", "pandas"):
        found = (
            made[name].to_native().with_columns(pl.selectors.categorical().cast(pl.String)).cast(dict(expected.schema))
        )
        assert differing(expected, found) == set(), name


def test_without_a_window_blocks_end_with_the_last_sales(typed: Typed) -> None:
    last = int(typed["sales"].filter(pl.col("Sales").is_not_null())["DayNumber"].to_numpy().max())
    options = FeatureOptions(horizon=14)
    table = make_table(typed, options, Split(kind="none"))
    blocks = HorizonBlocks(last - 13, last)
    assert table.equals(make_table(typed, options, blocks.window()))
    assert not table.equals(make_table(typed, FeatureOptions(horizon=15), Split(kind="none")))


@pytest.mark.parametrize("features", [WINDOW, LESSONS, LAGGED], ids=["window", "all", "lagged"])
def test_the_table_of_another_window_ends_with_it(typed: Typed, features: FeatureOptions) -> None:
    earlier = HorizonBlocks(BLOCKS.start - 60, BLOCKS.end - 60).window()
    whole = make_table(typed, features, earlier)
    found = nodes.window_table(**typed, features=features, split=earlier)
    assert found["Date"].max() == earlier.end
    assert found.equals(whole.filter(pl.col("Date") <= earlier.end))
    assert nodes.window_table(**typed, features=features, split=NOTEBOOK).equals(make_table(typed, features, NOTEBOOK))
    with pytest.raises(DataError, match=r"^split\.kind 'none' has no window"):
        nodes.window_table(**typed, features=features, split=Split(kind="none"))
