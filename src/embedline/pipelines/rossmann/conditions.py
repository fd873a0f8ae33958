"""Weather and search trends as they are known when a day is forecast: those of the day before its block."""

from typing import Any

import narwhals as nw

from embedline.frames.days import add_date_parts
from embedline.frames.tables import lookup
from embedline.pipelines.rossmann.calendar_features import date_features
from embedline.pipelines.rossmann.horizon import HorizonBlocks, block, day_limits


def add_lagged_conditions(rows: Any, days: Any, blocks: HorizonBlocks, *, name: str) -> Any:
    """Add date parts of each row's own day, and the conditions of its state on the day before its block.

    Rows whose block begins before the first day of the tables take the conditions of that day.

    Args:
        rows: Narwhals frame with State, Date and DayNumber; days of the future may be without conditions.
        days: conditions by State and DayNumber; no row of a state, or an end before a block begins, is a DataError.
        name: of the rows in messages.
    """
    dates = rows.select("Date", "DayNumber").unique()
    dates = add_date_parts(dates).with_columns(**date_features()).drop("Date")
    rows = rows.join(dates, on=["DayNumber"], how="left").with_columns(Block=blocks.number(nw.col("DayNumber")))
    first_known = days.group_by("State").agg(nw.col("DayNumber").min().alias("_first"))
    asked = nw.concat(
        [
            first_known.with_columns(block(number), _origin=nw.lit(blocks.first_day(number) - 1))
            for number in blocks.numbers(*day_limits(rows))
        ]
    )
    origin = nw.max_horizontal("_first", "_origin").cast(nw.Int32)
    asked = asked.select("State", "Block", DayNumber=origin).join(days, on=["State", "DayNumber"], how="inner")
    table_name = "both weather.csv and googletrend.csv on the day before its block"
    conditions = asked.drop("DayNumber")
    found = lookup(rows, conditions, ["State", "Block"], name=name, table_name=table_name, show=["State", "Date"])
    return found.drop("Block")
