"""Recency features: how a store has sold lately, as it is known at the start of each block of the horizon.

One row for each store, weekday, promotion and block, also for those that have never been, so that a look-up by the
weekday and the promotion of a planned day always finds one.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import narwhals as nw
import polars as pl

from embedline.frames.parts import Parts, Plan
from embedline.pipelines.rossmann.horizon import HorizonBlocks, block, day_limits
from embedline.pipelines.tabular.columns import Split

KEY = ("Store", "DayOfWeek", "Promo", "Block")
PERIODS = (91, 182, 364)  # days before a block, whole weeks: every weekday counts equally often
YEAR = 364  # days: the same weekdays, and the same fortnights of promotions, a year earlier
LATEST = 42  # days of the latest level
MEDIANS = tuple(f"SalesMedian{days}" for days in PERIODS)
RECENCY = (*MEDIANS, "SalesTrend", "SalesYearOnYear", "SalesLevel42", "ClosedDays91")

_LONGEST = YEAR + PERIODS[0]
_LONGEST_MEDIAN = f"_m{PERIODS[-1]}"
# Spans of days before a block, first and last, whose logarithms are summed up.
_SPANS = {
    "latest": (1, LATEST),
    "recent": (1, PERIODS[0]),
    "before": (PERIODS[0] + 1, PERIODS[1]),
    "year": (YEAR + 1, _LONGEST),
}
# Logarithms are rounded to multiples of this: their sums are then exact in whatever order a backend adds them.
_STEP = 2.0**-20
_FINE = 2.0**-24  # of medians and means of these, so that medians stay as they are and no value lies half-way
# Store, weekday and promotion in one integer: grouped and joined faster than three columns. So is the block with it.
_CELL, _CELLS = "_cell", 16  # of a store
_BLOCKS = 2**17  # more than there are days


def recency_grid(sales: Any, split: Split, blocks: HorizonBlocks) -> Any:
    """Features of the sales before each block, for each store, weekday and promotion.

    Days without sales, and the held-out window of an interpolation (``split.train: others``), are in none of them.

    Args:
        sales: Narwhals frame of ``rossmann.sales``.

    Returns:
        Store, DayOfWeek (1-7), Promo (0, 1), Block and, as Float32:

        * SalesMedian91, …182, …364: median log sales of the store on such days, over so many days before the block.
          Where there are none: the next longer period, then the median over the store's weekdays of their medians (with
          the same promotion, or any), then that over all stores.
        * SalesLevel42: mean difference of the last 42 days' log sales from the SalesMedian364 of their kind of day.
        * SalesTrend: the same of the last 91 days, less that of the 91 days before.
        * SalesYearOnYear: mean log sales of the last 91 days, less that of the same days 364 days earlier.
        * ClosedDays91: days without an open store among the last 91, days without a row included.

        Each is less its mean over the stores that have sold before the block. All are missing in a block before which
        nothing has been sold.
    """
    first, _ = day_limits(sales)
    cells = grid_cells(sales, split, blocks, block_numbers(sales, blocks))
    found = store_features(cells, all_medians(cells), blocks, first)
    return centred(found, block_sums(found))


def recency_of_parts(sales: Parts, split: Split, blocks: HorizonBlocks) -> Plan:
    """The same of a frame in parts of whole stores: of all stores it needs the medians and the sums of each block."""
    rows = nw.from_native(sales.scan())
    (first, _), numbers = day_limits(rows), block_numbers(rows, blocks)

    def cells(part: pl.DataFrame) -> Any:
        return grid_cells(nw.from_native(part), split, blocks, numbers)

    def features(part: pl.DataFrame, medians: pl.DataFrame) -> Any:
        return store_features(cells(part), nw.from_native(medians), blocks, first)

    longest = sales.gather(lambda part: cells(part).select("Block", _LONGEST_MEDIAN).to_native())
    medians = all_medians(nw.from_native(longest)).to_native()
    sums = sales.gather(lambda part: block_sums(features(part, medians)).to_native()).group_by("Block").sum()
    return sales.map(lambda part: centred(features(part, medians), nw.from_native(sums)).to_native())


def block_numbers(sales: Any, blocks: HorizonBlocks) -> list[int]:
    """Numbers of the blocks that have a row."""
    numbers = sales.select(Block=blocks.number(nw.col("DayNumber"))).unique().lazy().collect()
    return sorted(numbers.get_column("Block").to_list())


def add_recency(rows: Any, recency: Any, blocks: HorizonBlocks) -> Any:
    """Add the features of :func:`recency_grid` to rows with Store, DayOfWeek, Promo and DayNumber."""
    key = "_grid_row"
    number = grid_row().alias(key)
    rows = rows.with_columns(Block=blocks.number(nw.col("DayNumber"))).with_columns(number).drop("Block")
    return rows.join(recency.select(number, *RECENCY), on=[key], how="left").drop(key)


def grid_row() -> nw.Expr:
    """A number for each row of the grid, from the columns of its key."""
    return row_number(
        nw.col("Store").cast(nw.Int64), nw.col("DayOfWeek").cast(nw.Int64), nw.col("Promo"), nw.col("Block")
    )


def row_number(store: Any, weekday: Any, promo: Any, block: Any) -> Any:
    """The number of :func:`grid_row`, of 64-bit expressions or arrays."""
    return (store * _CELLS + weekday * 2 + promo) * _BLOCKS + block + _BLOCKS // 2


def _cell() -> nw.Expr:
    return nw.col("Store").cast(nw.Int64) * _CELLS + nw.col("DayOfWeek").cast(nw.Int64) * 2 + nw.col("Promo")


def grid_cells(sales: Any, split: Split, blocks: HorizonBlocks, numbers: Sequence[int]) -> Any:
    """Statistics of the sales before each of some blocks, for each store, weekday and promotion."""
    rows = sales.select("Store", "DayOfWeek", "Promo", "Open", "Sales", "DayNumber")
    cells = _cells_of_blocks(_history(rows, split, blocks), blocks, numbers)
    return _grid(rows, numbers).join(cells, on=[_CELL, "Block"], how="left")


def all_medians(cells: Any) -> Any:
    """By block, the median over all stores that stands for those without sales; missing where nothing has been sold."""
    return cells.group_by("Block").agg(nw.col(_LONGEST_MEDIAN).median().alias("_all"))


def block_sums(found: Any) -> Any:
    """By block, exact sums and counts of :func:`store_features` over the stores that have sold before it."""
    sums = [nw.col(name).sum().alias(f"_sum_{name}") for name in RECENCY]
    counts = [nw.col(name).count().alias(f"_count_{name}") for name in RECENCY]
    return found.filter(nw.col("_sold")).group_by("Block").agg(*sums, *counts)


def centred(found: Any, sums: Any) -> Any:
    """The grid: the features of stores, less their means over the stores.

    Blocks begin on few days, whose season and sales of all stores a model would learn by heart: with the means left in,
    a window of the back-test was forecast 9 % too low for every store.
    """
    rows = found.join(sums, on=["Block"], how="left")
    means = {
        name: nw.col(f"_sum_{name}") / nw.when(nw.col(f"_count_{name}") > 0).then(nw.col(f"_count_{name}"))
        for name in RECENCY
    }
    grid = rows.select(*KEY, *((nw.col(name) - mean).cast(nw.Float32).alias(name) for name, mean in means.items()))
    return grid.sort(*KEY) if isinstance(grid, nw.DataFrame) else grid  # an artifact with the same bytes each time


def _history(rows: Any, split: Split, blocks: HorizonBlocks) -> Any:
    """Open days with their logarithm of sales, which is missing where nothing was sold or it may not be seen."""
    seen = nw.col("Sales") > 0
    if split.kind == "window" and split.train == "others":
        seen = seen & ~nw.col("DayNumber").is_between(blocks.start, blocks.end)
    sold = nw.when(seen).then(nw.col("Sales")).cast(nw.Float64)
    opened = rows.filter(nw.col("Open") == 1).with_columns(_cell().alias(_CELL), sold.alias("_sold"))
    return opened.select(_CELL, "DayNumber", _log=(nw.col("_sold").log() / _STEP).round(0) * _STEP)


def _cells_of_blocks(history: Any, blocks: HorizonBlocks, numbers: Iterable[int]) -> Any:
    """Statistics of the days before each block, by cell and block."""
    if not isinstance(history, nw.DataFrame):
        return _statistics(nw.concat([_days_before(history, blocks, number) for number in numbers]), _CELL, "Block")
    # In memory one block after the other: together they would be ten copies of the sales. Polars takes half the time
    # to group by one column that is sorted.
    history = history.sort(_CELL)
    found = [_statistics(_days_before(history, blocks, number), _CELL) for number in numbers]
    return nw.concat([cells.with_columns(block(number)) for cells, number in zip(found, numbers, strict=True)])


def _days_before(history: Any, blocks: HorizonBlocks, number: int) -> Any:
    """The days before a block by their age: 1 on the last day before it."""
    aged = history.with_columns(block(number), _age=blocks.first_day(number) - nw.col("DayNumber"))
    return aged.filter(nw.col("_age").is_between(1, _LONGEST))


def _statistics(aged: Any, *key: str) -> Any:
    """Medians, counts and sums of cells; whatever is needed of stores follows from these few rows."""
    age, logs = nw.col("_age"), nw.col("_log")
    masked = {f"_m{days}": nw.when(age <= days).then(logs) for days in PERIODS}
    for span, (nearest, farthest) in _SPANS.items():
        masked[f"_s_{span}"] = nw.when(age.is_between(nearest, farthest)).then(logs)
    masked["_open"] = nw.when(age <= PERIODS[0]).then(nw.lit(1))
    medians = [nw.col(f"_m{days}").median() for days in PERIODS]
    sums = [nw.col(f"_s_{span}").sum() for span in _SPANS]
    counts = [nw.col(f"_s_{span}").count().alias(f"_n_{span}") for span in _SPANS]
    return aged.with_columns(**masked).group_by(*key).agg(*medians, *sums, *counts, nw.col("_open").count())


def _grid(rows: Any, numbers: Sequence[int]) -> Any:
    """Every store of the rows and every block with every weekday and promotion, and its cell."""
    one = rows.select("Store").head(1)
    kinds = [
        one.select(nw.lit(day).cast(nw.Int8).alias("DayOfWeek"), nw.lit(promo).cast(nw.Int8).alias("Promo"))
        for day in range(1, 8)
        for promo in (0, 1)
    ]
    all_blocks = nw.concat([one.select(block(number)) for number in numbers])
    grid = rows.select("Store").unique().join(nw.concat(kinds), how="cross").with_columns(_cell().alias(_CELL))
    return grid.join(all_blocks, how="cross")


def store_features(cells: Any, medians: Any, blocks: HorizonBlocks, first: int) -> Any:
    """The features of each store, weekday, promotion and block, Float64, and ``_sold``: the store has sold before it.

    Args:
        cells: of :func:`grid_cells`.
        medians: of :func:`all_medians`, over all stores.
        first: the first day number of all stores.
    """
    longest = nw.col(_LONGEST_MEDIAN)
    usual = {f"_u_{span}": nw.when(nw.col(f"_n_{span}") > 0).then(nw.col(f"_n_{span}") * longest) for span in _SPANS}
    rows = cells.join(medians, on=["Block"], how="left").with_columns(**usual)
    of_store = [f"_{kind}_{span}" for kind in "sun" for span in _SPANS] + ["_open"]
    rows = rows.with_columns(
        longest.median().over("Store", "Promo", "Block").alias("_promo"),
        longest.median().over("Store", "Block").alias("_store"),
        *(nw.col(name).fill_null(0).sum().over("Store", "Block").alias(name) for name in of_store),
    )
    found = {
        name: nw.coalesce(*(nw.col(f"_m{days}") for days in PERIODS[place:]), "_promo", "_store", "_all")
        for place, name in enumerate(MEDIANS)
    }
    known = ~nw.col("_all").is_null()
    found |= {name: nw.when(known).then(value) for name, value in _store_features(blocks, first).items()}
    sold = (nw.col("_n_recent") + nw.col("_n_before") + nw.col("_n_year") > 0).alias("_sold")
    return rows.select(*KEY, sold, *(((value / _FINE).round(0) * _FINE).alias(name) for name, value in found.items()))


def _store_features(blocks: HorizonBlocks, first: int) -> dict[str, nw.Expr]:
    """The features of a store and block, from the sums of the statistics of its cells."""
    counted = {span: nw.when(nw.col(f"_n_{span}") > 0).then(nw.col(f"_n_{span}")) for span in _SPANS}
    mean = {span: nw.col(f"_s_{span}") / counted[span] for span in _SPANS}
    level = {span: (nw.col(f"_s_{span}") - nw.col(f"_u_{span}")) / counted[span] for span in _SPANS}
    days = (blocks.first_day(nw.col("Block")) - first).clip(0, PERIODS[0])  # before the first day nothing is known
    # 0, no change, where one of the spans has no sales: a missing value and its flag would only mark the first year,
    # which no forecast is in.
    return {
        "SalesTrend": (level["recent"] - level["before"]).fill_null(0.0),
        "SalesYearOnYear": (mean["recent"] - mean["year"]).fill_null(0.0),
        "SalesLevel42": level["latest"].fill_null(0.0),
        "ClosedDays91": days - nw.col("_open"),
    }
