"""Dates and times as inputs: how far along, where in the year and the week, and at what time of day."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import narwhals as nw
from pydantic import BaseModel, ConfigDict

from embedline.frames.days import day_number
from embedline.pipelines.tabular.columns import Columns, local_times

DAYS_OF_YEAR, HOURS_OF_DAY = 365.2425, 24.0
EPOCH = datetime(1970, 1, 1)


class DateParts(BaseModel):
    """The inputs that a column of dates becomes.

    Attributes:
        clock: whether it has times of day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    clock: bool

    @property
    def categorical(self) -> tuple[str, ...]:
        """Month (1 to 12) and weekday (1 for Monday)."""
        return f"{self.column}.month", f"{self.column}.weekday"

    @property
    def cyclic(self) -> tuple[str, ...]:
        """Sine and cosine of the place in the year and, with a clock, in the day."""
        cycles = ("year", "day") if self.clock else ("year",)
        return tuple(f"{self.column}.{cycle}_{function}" for cycle in cycles for function in ("sin", "cos"))

    @property
    def continuous(self) -> tuple[str, ...]:
        """Days since 1970-01-01 and :attr:`cyclic`."""
        return f"{self.column}.days", *self.cyclic


def fit_dates(table: nw.DataFrame[Any], names: Sequence[str]) -> tuple[DateParts, ...]:
    """The parts of columns of dates or times; a clock counts if any time is not midnight."""
    found = []
    for name in names:
        times = local_times(table, name).cast(nw.Datetime("us")).drop_nulls()
        found.append(DateParts(column=name, clock=bool((times != times.dt.truncate("1d")).any())))
    return tuple(found)


def add_parts(table: nw.DataFrame[Any], dates: Sequence[DateParts]) -> nw.DataFrame[Any]:
    """Add the parts of each date as columns, null where it is missing; times with a zone count by their own clock."""
    name = nw.generate_temporary_column_name(8, table.columns)
    when = nw.col(name)
    for parts in dates:
        times = local_times(table, parts.column).cast(nw.Datetime("us"))
        # Filled in meanwhile: pandas has no whole number for a missing value.
        table = table.with_columns(times.fill_null(EPOCH).alias(name))
        hours = when.dt.hour().cast(nw.Float64) + when.dt.minute() / 60.0 + when.dt.second() / 3600.0
        days = day_number(when).cast(nw.Float64)
        turns = {"year": when.dt.ordinal_day().cast(nw.Float64) / DAYS_OF_YEAR, "day": hours / HOURS_OF_DAY}
        values = {
            "days": days + hours / HOURS_OF_DAY if parts.clock else days,
            "month": when.dt.month().cast(nw.Int64),
            "weekday": (day_number(when).cast(nw.Int64) + 3) % 7 + 1,
            **{f"{cycle}_sin": (turn * 2.0 * math.pi).sin() for cycle, turn in turns.items()},
            **{f"{cycle}_cos": (turn * 2.0 * math.pi).cos() for cycle, turn in turns.items()},
        }
        added = {f"{parts.column}.{part}": value for part, value in values.items()}
        known = ~nw.col(parts.column).is_null()
        table = table.with_columns(
            nw.when(known).then(added[part]).alias(part) for part in (*parts.categorical, *parts.continuous)
        )
    return table.drop(name, strict=False)


def with_parts(columns: Columns, dates: Sequence[DateParts]) -> Columns:
    """The roles of the columns with the parts of the dates among the variables."""
    categorical = (name for parts in dates for name in parts.categorical)
    continuous = (name for parts in dates for name in parts.continuous)
    update = {"categorical": (*columns.categorical, *categorical), "continuous": (*columns.continuous, *continuous)}
    return columns.model_copy(update={**update, "dates": ()})
