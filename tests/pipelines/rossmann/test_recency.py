"""Recency features by hand on a few days, and against plain Python on simulated sales."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import narwhals as nw
import polars as pl
import pytest

from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.horizon import HorizonBlocks, horizon_blocks
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.recency import KEY, MEDIANS, RECENCY
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables
from embedline.pipelines.tabular.columns import Split
from frames.conftest import ENGINES as BUILDS
from pipelines.rossmann.conftest import ENGINES, FORECAST, Rows, column, make_table, read_rows, typed_tables

Sold = list[tuple[int, int, int, int, int, int | None]]  # store, day number, weekday, promo, open, sales
NAMES = ("Store", "DayNumber", "DayOfWeek", "Promo", "Open", "Sales")
EPOCH = date(1970, 1, 1).toordinal()
TYPES = {"Store": pl.Int32, "DayNumber": pl.Int32, "DayOfWeek": pl.Int8, "Promo": pl.Int8, "Open": pl.Int8}


def weekly(start: int, end: int, **options: Any) -> Split:
    """A window by its first and last day number."""
    return Split(
        kind="window",
        column="Date",
        start=date.fromordinal(start + EPOCH),
        end=date.fromordinal(end + EPOCH),
        **options,
    )


def grid_of(engine: str, sold: Sold, split: Split) -> dict[tuple[int, ...], dict[str, Any]]:
    """The recency grid by its key."""
    frame = pl.DataFrame(sold, schema=NAMES, orient="row").cast(TYPES)  # type: ignore[arg-type]
    native = frame if engine == "polars" else frame.lazy() if engine == "polars-lazy" else frame.to_pandas()
    found = nodes.build_recency(native, FeatureOptions(), split)
    found = nw.from_native(found).lazy().collect()  # once: a lazy frame has its rows in another order each time
    keys = zip(*(column(found, name) for name in KEY), strict=True)
    rows = zip(*(column(found, name) for name in RECENCY), strict=True)
    return {key: dict(zip(RECENCY, row, strict=True)) for key, row in zip(keys, rows, strict=True)}


# Blocks of ten days: 0 from day 1000. Day 1000 is a Monday, as all days 7 apart; promotions are on Mondays only.
def sold(
    store: int, day: int, sales: int | None, promo: int = 1, opened: int = 1
) -> tuple[int, int, int, int, int, int | None]:
    return (store, day, (day - 1000) % 7 + 1, promo, opened, sales)


E2 = [round(math.exp(k)) for k in range(12)]  # sales whose logarithms are about whole numbers
HAND: Sold = [
    *(sold(1, day, E2[value]) for day, value in ((993, 8), (986, 6), (979, 7), (972, 5))),  # Mondays, 7 to 28 days ago
    sold(1, 1000 - 91, E2[9]),  # the last day of the shortest period
    sold(1, 1000 - 98, E2[10]),  # in the second
    sold(1, 1000 - 182 - 7, E2[4]),  # in the third
    sold(1, 1000 - 371, E2[7]),  # a year ago
    sold(1, 994, E2[3], promo=0),  # a Tuesday
    sold(1, 995, 0, promo=0),  # open, and nothing sold
    sold(1, 996, 0, promo=0, opened=0),
    sold(1, 1000, E2[11]),  # on the first day of the block
    sold(1, 1010, None),
    sold(2, 992, E2[6], promo=0),  # a Sunday
]


@pytest.mark.parametrize("engine", list(BUILDS))
def test_values_by_hand(engine: str) -> None:
    """All are known but for the mean over the grid of the block: differences within it are those of the values."""
    found = grid_of(engine, HAND, weekly(1000, 1009))
    log = [math.log(sales) for sales in E2]
    for name in RECENCY:  # of both stores, which have sold before
        mean = statistics.fmean(row[name] for key, row in found.items() if key[3] == 0)
        assert mean == pytest.approx(0.0, abs=1e-5), name

    def difference(name: str, cell: tuple[int, int, int], other: tuple[int, int, int]) -> float:
        return float(found[*cell, 0][name] - found[*other, 0][name])

    monday, tuesday, friday, store_2 = (1, 1, 1), (1, 2, 0), (1, 5, 1), (2, 5, 1)
    # Of 8, 6, 7, 5, 9; and 10; and 4. The Tuesday has one day, of 3.
    medians = dict(zip(MEDIANS, (log[7], (log[7] + log[8]) / 2, log[7]), strict=True))
    for name, median in medians.items():
        assert difference(name, monday, tuesday) == pytest.approx(median - log[3], abs=1e-5)
        # Never on a promoted Friday: that of promotions, over the longest period; without one: that without.
        assert difference(name, friday, tuesday) == pytest.approx(log[7] - log[3], abs=1e-5)
        assert difference(name, (1, 5, 0), tuesday) == pytest.approx(0.0, abs=1e-5)
        # Store 2 has had no promotion: its own median.
        assert difference(name, store_2, tuesday) == pytest.approx(log[6] - log[3], abs=1e-5)
    # Of the store: mean of 8, 6, 7, 5 less 7, and Tuesday's own; then without and with 9; 10 in the 91 days before.
    # Store 2 has one day: no change is known, 0.
    usual = [log[8] - log[7], log[6] - log[7], 0.0, log[5] - log[7], 0.0]
    assert difference("SalesLevel42", monday, store_2) == pytest.approx(sum(usual) / 5, abs=1e-5)
    trend = (sum(usual) + log[9] - log[7]) / 6 - (log[10] - log[7])
    assert difference("SalesTrend", monday, store_2) == pytest.approx(trend, abs=1e-5)
    recent = sum(log[k] for k in (8, 6, 7, 5, 9, 3)) / 6
    assert difference("SalesYearOnYear", monday, store_2) == pytest.approx(recent - log[7], abs=1e-5)
    # Seven days open, one of them without sales, and one day of store 2; no row: closed.
    assert difference("ClosedDays91", monday, store_2) == pytest.approx((91 - 7) - (91 - 1), abs=1e-5)
    for name in ("SalesTrend", "SalesYearOnYear", "SalesLevel42", "ClosedDays91"):
        assert len({row[name] for key, row in found.items() if key[0] == 1 and key[3] == 0}) == 1, name
    # The day 1000 counts in block 1, which begins on day 1010: of 8, 6, 7, 5, 9, 10, 11; the Tuesday has 3.
    later = found[1, 1, 1, 1]["SalesMedian182"] - found[1, 2, 0, 1]["SalesMedian182"]
    assert later == pytest.approx(log[8] - log[3], abs=1e-5)


@pytest.mark.parametrize("engine", list(BUILDS))
def test_a_store_without_sales_does_not_move_the_others(engine: str) -> None:
    stranger = sold(3, 999, None, promo=0, opened=0)
    found, more = (grid_of(engine, rows, weekly(1000, 1009)) for rows in (HAND, [*HAND, stranger]))
    assert {key: row for key, row in more.items() if key[0] != 3} == found
    assert all(row["SalesMedian91"] is not None for key, row in more.items() if key[0] == 3 and key[3] == 0)


@pytest.mark.parametrize("engine", list(BUILDS))
def test_the_grid_is_dense_and_empty_before_the_first_sales(engine: str) -> None:
    found = grid_of(engine, HAND, weekly(1000, 1009))
    numbers = {-38, -19, -10, -3, -2, -1, 0, 1}  # of the days 629 to 1010
    assert len(found) == 2 * 7 * 2 * len(numbers)
    assert {key[3] for key in found} == numbers
    empty = {key[3] for key, row in found.items() if all(value is None for value in row.values())}
    assert empty == {-38}
    assert not any(value is None for key, row in found.items() if key[3] > -38 for value in row.values())


@pytest.mark.parametrize("engine", list(BUILDS))
def test_the_held_out_window_of_an_interpolation_is_in_no_feature(engine: str) -> None:
    days = [sold(1, day, E2[8], promo=0) for day in range(900, 1100)]
    changed = [sold(1, row[1], E2[10], promo=0) if 1000 <= row[1] < 1010 else row for row in days]
    others, before = (weekly(1000, 1009, train=train) for train in ("others", "before"))
    usual = [(2, *row[1:]) for row in days]  # a second store: all features are differences from the stores' mean
    assert grid_of(engine, [*days, *usual], others) == grid_of(engine, [*changed, *usual], others)
    assert grid_of(engine, [*days, *usual], before) != grid_of(engine, [*changed, *usual], before)
    # That the store was open in these days is in the calendar, and counts.
    other = [(2, *row[1:]) for row in days if not 1000 <= row[1] < 1010]
    found = grid_of(engine, [*days, *other], others)
    assert found[2, 1, 0, 1]["ClosedDays91"] - found[1, 1, 0, 1]["ClosedDays91"] == pytest.approx(10, abs=1e-5)


@pytest.fixture(scope="module")
def simulated() -> dict[str, Rows]:
    """Four stores with the real calendar."""
    tables = generate_tables(GeneratorOptions(n_stores=4))
    return {name: read_rows(content.decode()) for name, content in tables.items()}


def slow_recency(sales: Sequence[Mapping[str, Any]], cell: tuple[int, int, int], origin: int) -> dict[str, float]:
    """The features of one row of the grid, day by day, where the cell has sales in the last 91 days."""
    store, weekday, promo = cell
    first = min(row["DayNumber"] for row in sales)
    aged = [(origin - row["DayNumber"], row) for row in sales if row["Store"] == store and row["DayNumber"] < origin]
    logs = [
        (age, (row["DayOfWeek"], row["Promo"]), math.log(row["Sales"]))
        for age, row in aged
        if row["Open"] and row["Sales"]
    ]

    def median(kind: tuple[int, int], days: int) -> float:
        return statistics.median(log for age, other, log in logs if other == kind and age <= days)

    def level(nearest: int, farthest: int) -> float:
        return statistics.fmean(log - median(kind, 364) for age, kind, log in logs if nearest <= age <= farthest)

    def mean(nearest: int, farthest: int) -> float:
        return statistics.fmean(log for age, _, log in logs if nearest <= age <= farthest)

    ages = [age for age, *_ in logs]
    opened = sum(age <= 91 and row["Open"] for age, row in aged)
    return {
        **{f"SalesMedian{days}": median((weekday, promo), days) for days in (91, 182, 364)},
        "SalesTrend": level(1, 91) - level(92, 182) if any(91 < age <= 182 for age in ages) else 0.0,
        "SalesYearOnYear": mean(1, 91) - mean(365, 455) if any(364 < age <= 455 for age in ages) else 0.0,
        "SalesLevel42": level(1, 42) if any(age <= 42 for age in ages) else 0.0,
        "ClosedDays91": min(91, origin - first) - opened,
    }


@pytest.mark.parametrize("engine", list(ENGINES))
def test_features_equal_those_of_plain_python(simulated: dict[str, Rows], engine: str) -> None:
    sales = typed_tables(simulated, ENGINES["polars"])["sales"]
    rows = sales.select(*NAMES).rows(named=True)
    blocks = horizon_blocks(FORECAST, None, 42)
    found = grid_of(engine, [tuple(row[name] for name in NAMES) for row in rows], FORECAST)
    checked = 0
    for number in (-20, -11, -9, -6, -2, -1, 0, 1):
        origin = blocks.first_day(number)
        lately = [row for row in rows if 1 <= origin - row["DayNumber"] <= 91 and row["Sales"]]
        sold_lately = {(row["Store"], row["DayOfWeek"], row["Promo"]) for row in lately}
        cells = [cell for cell in ((1, 1, 1), (1, 6, 0), (2, 3, 0), (3, 5, 1), (4, 2, 0)) if cell in sold_lately]
        first = slow_recency(rows, cells[0], origin)  # the means over the block are in no difference
        for cell in cells[1:]:
            expected = {name: value - first[name] for name, value in slow_recency(rows, cell, origin).items()}
            differences = {name: found[*cell, number][name] - found[*cells[0], number][name] for name in RECENCY}
            assert differences == pytest.approx(expected, abs=5e-6), (cell, number)
            checked += 1
    assert checked > 24


def test_every_row_of_the_table_finds_its_features(simulated: dict[str, Rows]) -> None:
    typed = typed_tables(simulated, ENGINES["polars"])
    table = make_table(typed, FeatureOptions())
    blocks = HorizonBlocks(*((day - date(1970, 1, 1)).days for day in (FORECAST.start, FORECAST.end)))  # type: ignore[operator]
    number = ((pl.col("Date").cast(pl.Int32) - blocks.start) // blocks.length).clip(upper_bound=1)
    rows = table.with_columns(number.alias("Block"))
    grid = nodes.build_recency(typed["sales"], FeatureOptions(), FORECAST)
    expected = rows.select(*KEY).join(grid, on=KEY, how="left", maintain_order="left")
    assert rows.select(*RECENCY).equals(expected.select(*RECENCY))
    assert all(table.schema[name] == pl.Float32 for name in RECENCY)
    first = rows["Block"].min()
    assert rows.filter(pl.col("Block") > first).select(*RECENCY).null_count().sum_horizontal().item() == 0
    assert rows.filter(pl.col("Sales").is_null())["SalesMedian91"].is_between(-4, 4).all()
    # The recency is known at the origin: the same for all days of a block on one weekday with one promotion.
    spread = rows.group_by(*KEY).agg(pl.col(*RECENCY).n_unique())
    assert spread.select(pl.max_horizontal(*RECENCY).max()).item() == 1


def test_a_factor_of_all_sales_changes_nothing(simulated: dict[str, Rows]) -> None:
    doubled = [{**row, "Sales": str(2 * int(row["Sales"]))} for row in simulated["train"]]
    tables: dict[str, Callable[[], Any]] = {
        "as they are": lambda: typed_tables(simulated, ENGINES["polars"]),
        "doubled": lambda: typed_tables({**simulated, "train": doubled}, ENGINES["polars"]),
    }
    usual, twice = (
        nodes.build_recency(make()["sales"], FeatureOptions(), FORECAST).sort(*KEY) for make in tables.values()
    )
    # By a factor, which all stores have in common, nothing changes: only differences between stores do.
    for name in RECENCY:
        assert twice[name].to_numpy() == pytest.approx(usual[name].to_numpy(), abs=1e-5, nan_ok=True), name
