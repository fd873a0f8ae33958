"""Rossmann tables as text frames of each engine, and the whole preparation without Kedro."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

import narwhals as nw
import pandas as pd
import polars as pl
import pytest

from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.tabular.columns import Split

Rows = list[dict[str, str]]
FORECAST = Split(kind="window", column="Date", start=date(2015, 6, 19), end=date(2015, 7, 31))
LESSONS = FeatureOptions(calendar="all")  # rows see the whole calendar
Tables = Mapping[str, Rows]

ENGINES: dict[str, Callable[[Rows], Any]] = {
    "polars": lambda rows: pl.DataFrame(rows, infer_schema_length=None),
    "polars-lazy": lambda rows: pl.LazyFrame(rows, infer_schema_length=None),
    "pandas": lambda rows: pd.DataFrame(rows, dtype="str"),
}

SMALL = {
    "train": """\
Store,DayOfWeek,Date,Sales,Customers,Open,Promo,StateHoliday,SchoolHoliday
1,5,2015-07-31,5000,500,1,1,0,1
1,4,2015-07-30,0,0,0,0,a,1
1,3,2015-07-29,4000,400,1,1,0,0
2,5,2015-07-31,7000,700,1,1,0,0
""",
    "test": """\
Id,Store,DayOfWeek,Date,Open,Promo,StateHoliday,SchoolHoliday
1,1,6,2015-08-01,,0,0,0
2,1,7,2015-08-02,0,0,0,0
""",
    "store": """\
Store,StoreType,Assortment,CompetitionDistance,CompetitionOpenSinceMonth,CompetitionOpenSinceYear,Promo2,Promo2SinceWeek,Promo2SinceYear,PromoInterval
1,c,a,1270,5,2015,1,28,2015,"Jan,Apr,Jul,Oct"
2,a,b,,,,0,,,
""",
    "store_states": 'Store,State\n1,HE\n2,"HB,NI"\n',
    "state_names": 'StateName,State\nHessen,HE\nNiedersachsen,"HB,NI"\n',
    "googletrend": """\
file,week,trend
Rossmann_DE,2015-07-26 - 2015-08-01,80
Rossmann_DE,2015-08-02 - 2015-08-08,81
Rossmann_DE_HE,2015-07-26 - 2015-08-01,60
Rossmann_DE_HE,2015-08-02 - 2015-08-08,61
Rossmann_DE_NI,2015-07-26 - 2015-08-01,70
""",
}
_MEASURES = [name for name in nodes.schemas.WEATHER if name not in ("file", "Date", "Events", "Mean_TemperatureC")]


def read_rows(content: str) -> Rows:
    """The rows of a CSV text, every value a text."""
    return list(csv.DictReader(io.StringIO(content)))


def rows_of_stores(contents: Mapping[str, bytes], stores: Iterable[str]) -> dict[str, Rows]:
    """All tables as rows of text, of a few stores only."""
    kept = set(stores)
    tables = {name: read_rows(content.decode()) for name, content in contents.items() if name != "train"}
    train = pl.read_csv(contents["train"], infer_schema=False).filter(pl.col("Store").is_in(kept))
    tables["train"] = train.rows(named=True)
    return {
        name: [row for row in rows if row["Store"] in kept] if "Store" in rows[0] else rows
        for name, rows in tables.items()
    }


@pytest.fixture
def small() -> dict[str, Rows]:
    """Two stores, five days; store 1 is closed on a holiday, its first test row leaves Open blank."""
    tables = {name: read_rows(content) for name, content in SMALL.items()}
    days = ["2015-07-29", "2015-07-30", "2015-07-31", "2015-08-01", "2015-08-02"]
    tables["weather"] = [
        {"file": state, "Date": day, "Mean_TemperatureC": str(20 + number), "Events": "Rain" if number else ""}
        | dict.fromkeys(_MEASURES, "1.5")
        for state in ("Hessen", "Niedersachsen")
        for number, day in enumerate(days)
    ]
    return tables


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Callable[[Rows], Any]:
    """Make a frame of one engine from rows of text."""
    return ENGINES[request.param]


def column(table: Any, name: str) -> list[Any]:
    """One column of a frame of any engine as a list, missing values as None."""
    values = nw.from_native(table).lazy().collect().get_column(name).to_list()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def typed_tables(tables: Tables, engine: Callable[[Rows], Any]) -> dict[str, Any]:
    """The typed tables, as the pipeline's nodes make them, by the parameters of the nodes that read them."""
    raw = {name: engine(rows) for name, rows in tables.items()}
    return {
        "sales": nodes.type_sales(raw["train"], raw["test"]),
        "stores": nodes.type_stores(raw["store"], raw["store_states"], raw["state_names"]),
        "weather": nodes.type_weather(raw["weather"], raw["state_names"]),
        "trends": nodes.type_trends(raw["googletrend"]),
    }


def make_table(typed: Mapping[str, Any], features: FeatureOptions, split: Split = FORECAST) -> Any:
    """``rossmann.table`` of typed tables, as the pipeline's nodes make it."""
    sales = typed["sales"]
    joined = nodes.join_tables(**typed, features=features, split=split)
    calendar, recency = (make(sales, features, split) for make in (nodes.build_calendar, nodes.build_recency))
    return nodes.build_table(joined, calendar, recency, features, split)


def prepare(
    tables: Tables, engine: Callable[[Rows], Any], features: FeatureOptions | None = None, split: Split = FORECAST
) -> Any:
    """``rossmann.table`` of ``tables``, as the pipeline's nodes make it."""
    return make_table(typed_tables(tables, engine), features or FeatureOptions(), split)
