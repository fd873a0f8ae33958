"""Recency features: how a store has sold lately, as it is known at the start of each block of the horizon.

One row for each store, weekday, promotion and block, also for those that have never been, so that a look-up by the
weekday and the promotion of a planned day always finds one.
"""

from collections.abc import Iterable
from typing import Any

import narwhals as nw

from embedline.pipelines.rossmann.horizon import HorizonBlocks, block, day_limits
from embedline.pipelines.tabular.columns import Split

KEY = ("Store", "DayOfWeek", "Promo", "Block")
PERIODS = (91, 182, 364)  # days before a block, whole weeks: every weekday counts equally often
YEAR = 364  # days: the same weekdays, and the same fortnights of promotions, a year earlier
LATEST = 42  # days of the latest level
MEDIANS = tuple(f"SalesMedian{days}" for days in PERIODS)
OF_STORES = ("SalesTrend", "SalesYearOnYear", "SalesLevel42", "ClosedDays91")
RECENCY = (*MEDIANS, *OF_STORES)

_LONGEST = YEAR + PERIODS[0]
# Spans of days before a block, first and last, whose logarithms are summed up.
_SPANS = {
    "latest": (1, LATEST),
    "recent": (1, PERIODS[0]),
    "before": (PERIODS[0] + 1, PERIODS[1]),
    "year": (YEAR + 1, _LONGEST),
}
# Logarithms are rounded to multiples of this: their sums are then exact in whatever order a backend adds them.
_STEP = 2.0**-20
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

        All are missing in a block before which nothing has been sold.
    """
    rows = sales.select("Store", "DayOfWeek", "Promo", "Open", "Sales", "DayNumber")
    first, last = day_limits(rows)
    numbers = blocks.numbers(first, last)
    cells = _cells_of_blocks(_history(rows, split, blocks), blocks, numbers)
    kinds = _all_kinds(rows)
    grid = nw.concat([kinds.with_columns(block(number)) for number in numbers])
    return _features(grid.join(cells, on=[_CELL, "Block"], how="left"), blocks, first)


def add_recency(rows: Any, recency: Any, blocks: HorizonBlocks) -> Any:
    """Add the features of :func:`recency_grid` to rows with Store, DayOfWeek, Promo and DayNumber."""
    key = "_grid_row"
    number = (_cell() * _BLOCKS + nw.col("Block") + _BLOCKS // 2).alias(key)
    rows = rows.with_columns(Block=blocks.number(nw.col("DayNumber"))).with_columns(number).drop("Block")
    return rows.join(recency.select(number, *RECENCY), on=[key], how="left").drop(key)


def _cell() -> nw.Expr:
    return nw.col("Store").cast(nw.Int64) * _CELLS + nw.col("DayOfWeek").cast(nw.Int64) * 2 + nw.col("Promo")


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


def _all_kinds(rows: Any) -> Any:
    """Every store with every weekday and promotion, and its cell."""
    one = rows.select("Store").head(1)
    kinds = [
        one.select(nw.lit(day).cast(nw.Int8).alias("DayOfWeek"), nw.lit(promo).cast(nw.Int8).alias("Promo"))
        for day in range(1, 8)
        for promo in (0, 1)
    ]
    grid = rows.select("Store").unique().join(nw.concat(kinds), how="cross")
    return grid.with_columns(_cell().alias(_CELL))


def _features(rows: Any, blocks: HorizonBlocks, first: int) -> Any:
    """The grid with its features, from the statistics of its cells."""
    widths = {"_promo": ["Store", "Promo", "Block"], "_store": ["Store", "Block"], "_all": ["Block"]}
    for name, key in widths.items():
        wider = rows.group_by(*key).agg(nw.col(f"_m{PERIODS[-1]}").median().alias(name))
        rows = rows.join(wider, on=key, how="left")
    rows = rows.join(_store_features(rows, blocks, first), on=["Store", "Block"], how="left")
    features = {
        name: nw.coalesce(*(nw.col(f"_m{days}") for days in PERIODS[place:]), *(nw.col(name) for name in widths))
        for place, name in enumerate(MEDIANS)
    }
    features |= {name: nw.when(~nw.col("_all").is_null()).then(nw.col(name)) for name in OF_STORES}
    return rows.select(*KEY, *(value.cast(nw.Float32).alias(name) for name, value in features.items()))


def _store_features(cells: Any, blocks: HorizonBlocks, first: int) -> Any:
    """The features of a store and block, from the statistics of its cells."""
    usual = {
        f"_u_{span}": nw.when(nw.col(f"_n_{span}") > 0).then(nw.col(f"_n_{span}") * nw.col(f"_m{PERIODS[-1]}"))
        for span in _SPANS
    }
    names = [f"_{kind}_{span}" for kind in "sun" for span in _SPANS]
    sums = cells.with_columns(**usual).group_by("Store", "Block").agg(nw.col(*names, "_open").sum())
    counted = {span: nw.when(nw.col(f"_n_{span}") > 0).then(nw.col(f"_n_{span}")) for span in _SPANS}
    mean = {span: nw.col(f"_s_{span}") / counted[span] for span in _SPANS}
    level = {span: (nw.col(f"_s_{span}") - nw.col(f"_u_{span}")) / counted[span] for span in _SPANS}
    # 0, no change, where one of the spans has no sales: a missing value and its flag would only mark the first year,
    # which no forecast is in.
    changes = {
        "SalesTrend": level["recent"] - level["before"],
        "SalesYearOnYear": mean["recent"] - mean["year"],
        "SalesLevel42": level["latest"],
    }
    days = (blocks.first_day(nw.col("Block")) - first).clip(0, PERIODS[0])  # before the first day nothing is known
    return sums.select(
        "Store",
        "Block",
        **{name: change.fill_null(0.0) for name, change in changes.items()},
        ClosedDays91=days - nw.col("_open").fill_null(0),
    )
