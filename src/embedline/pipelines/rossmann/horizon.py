"""Blocks of the forecast's horizon: which days count as known when the sales of a day are forecast.

A forecast is made at an origin, for the days of a horizon: nothing after the horizon's last day is known, and no sales
from its first day on. The days before are cut into blocks of the same length, each as if it had been forecast, so that
a training row knows as much as a row of the forecast does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import narwhals as nw

from embedline.errors import DataError
from embedline.pipelines.tabular.columns import Split

Number = TypeVar("Number", int, nw.Expr)

_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True)
class HorizonBlocks:
    """Blocks by number: 0 from ``start`` to ``end``, -1, -2, … of the same length before, 1 all days after ``end``.

    Both are day numbers (whole days since 1970-01-01), of the first and the last day of block 0.
    """

    start: int
    end: int

    @property
    def length(self) -> int:
        """Days of a block."""
        return self.end - self.start + 1

    def number(self, day: nw.Expr) -> nw.Expr:
        """Number of the block of a day number, as Int32."""
        # 1 at most: what follows the window is forecast at once, however many days it has.
        return ((day - self.start) // self.length).clip(upper_bound=1).cast(nw.Int32)

    def first_day(self, block: Number) -> Number:
        """Day number of a block's first day: sales from this day on are not known."""
        return block * self.length + self.start

    def window(self) -> Split:
        """Block 0 as the window of a split: what the blocks come from, in a form that can be stored."""
        start, end = (date.fromordinal(day + _EPOCH) for day in (self.start, self.end))
        return Split(kind="window", column="Date", start=start, end=end)

    def numbers(self, first: int, last: int) -> range:
        """Numbers of all blocks between two day numbers."""
        low, high = (min((day - self.start) // self.length, 1) for day in (first, last))
        return range(low, high + 1)


def day_limits(rows: Any) -> tuple[int, int]:
    """First and last DayNumber of a Narwhals frame."""
    day = nw.col("DayNumber")
    first, last = rows.select(day.min().alias("first"), day.max().alias("last")).lazy().collect().row(0)
    return int(first), int(last)


def block(number: int) -> nw.Expr:
    """The same block in all rows, the column Block."""
    return nw.lit(number).cast(nw.Int32).alias("Block")


def horizon_blocks(split: Split, sales: Any, horizon: int) -> HorizonBlocks:
    """The blocks that a split asks for: its window, or else the last ``horizon`` days with sales.

    ``sales`` has DayNumber and Sales, missing on the days to forecast; without a window, no row with sales is a
    DataError.
    """
    if split.kind == "window" and split.start and split.end:
        return HorizonBlocks(split.start.toordinal() - _EPOCH, split.end.toordinal() - _EPOCH)
    labelled = sales.filter(~nw.col("Sales").is_null())
    n_rows, end = labelled.select(nw.len().alias("rows"), nw.col("DayNumber").max()).lazy().collect().row(0)
    if n_rows == 0:
        raise DataError(f"rossmann.sales: no row has Sales, so that split.kind {split.kind!r} has no horizon")
    return HorizonBlocks(int(end) - horizon + 1, int(end))
