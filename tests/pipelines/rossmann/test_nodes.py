"""The preparation on two hand-written stores: every value, and every fault that a user can bring."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from pydantic import ValidationError

from embedline.datasets import Bytes, PolarsFrame
from embedline.errors import DataError
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.pipeline import TABLES, create_pipeline, create_submission_pipeline
from embedline.pipelines.rossmann.simulator import GeneratorOptions
from embedline.pipelines.tabular.columns import Split
from pipelines.rossmann.conftest import ENGINES, LESSONS, Rows, column, prepare

Engine = Callable[[Rows], Any]
Small = dict[str, Rows]


# Rows: store 1 on 29 and 31 July (the 30th has no sales), 1 and 2 August (test); store 2 on 31 July.
EXPECTED = {
    "Store": [1, 1, 1, 1, 2],
    "Id": [None, None, 1, 2, None],
    "Sales": [4000, 5000, None, None, 7000],
    "Open": [1, 1, 1, 0, 1],
    "Days": [0, 2, 3, 4, 2],
    "StateHoliday": [False] * 5,
    "HolidayKind": ["0"] * 5,
    "Year": [2015] * 5,
    "Month": [7, 7, 8, 8, 7],
    "Week": [31] * 5,
    "Day": [29, 31, 1, 2, 31],
    "StoreType": ["c", "c", "c", "c", "a"],
    "State": ["HE", "HE", "HE", "HE", "HB,NI"],
    "PromoInterval": ["Jan,Apr,Jul,Oct"] * 4 + [None],
    "CompetitionDistance": [1270, 1270, 1270, 1270, None],
    "CompetitionOpenSinceYear": [2015, 2015, 2015, 2015, 1900],
    "CompetitionMonthsOpen": [2, 2, 2, 2, 0],  # since 15 May: 75 to 79 days
    "Promo2Weeks": [3, 3, 3, 3, 0],  # since Monday 6 July: 23 to 27 days
    "Promo2SinceYear": [2015, 2015, 2015, 2015, 1900],
    "trend": [60, 60, 60, 61, 70],  # the second of August is a Sunday: the next week of the trends
    "trend_DE": [80, 80, 80, 81, 80],
    "Mean_TemperatureC": [20, 22, 23, 24, 22],
    "Events": [None, "Rain", "Rain", "Rain", "Rain"],
    "AfterStateHoliday": [None, 1, 2, 3, None],  # counted on the closed day that is left out, too
    "BeforeStateHoliday": [-1, None, None, None, None],
    "AfterSchoolHoliday": [None, 0, 1, 2, None],
    "BeforeSchoolHoliday": [-1, 0, None, None, None],
    "AfterPromo": [0, 0, 1, 2, 0],
    "StateHoliday_bw": [0, 1, 1, 1, 0],
    "StateHoliday_fw": [1, 0, 0, 0, 0],
    "SchoolHoliday_bw": [0, 2, 2, 2, 0],
    "SchoolHoliday_fw": [2, 1, 0, 0, 0],
    "Promo_bw": [1, 2, 2, 2, 1],
    "Promo_fw": [2, 1, 0, 0, 1],
    "ClosedBefore": [None, 1, 0, 0, None],
    "ClosedAfter": [1, 0, None, None, None],
}


def test_values_of_the_table(small: Small, engine: Engine) -> None:
    table = prepare(small, engine, LESSONS)
    assert {name: column(table, name) for name in EXPECTED} == EXPECTED
    assert type(table) is type(engine(small["store"]))
    left_out = {"Customers", "StoreDay", "DayNumber", "CompetitionOpenDay", "Promo2Day"}
    assert not left_out & set(nw.from_native(table).collect_schema().names())


def test_options_change_windows_caps_and_weather(small: Small, engine: Engine) -> None:
    features = FeatureOptions(window=2, competition_months_cap=1, promo2_weeks_cap=2, weather=("Precipitationmm",))
    table = prepare(small, engine, features)
    assert column(table, "Promo_bw") == [1, 1, 1, 0, 1]
    assert column(table, "CompetitionMonthsOpen") == [1, 1, 1, 1, 0]
    assert column(table, "Promo2Weeks") == [2, 2, 2, 2, 0]
    assert column(table, "Precipitationmm") == [1.5] * 5
    assert "Events" not in nw.from_native(table).collect_schema().names()


def test_types_are_narrow_and_text_is_held_as_categories(small: Small) -> None:
    schema = prepare(small, ENGINES["polars"]).schema
    assert schema["Store"] == pl.Int32
    assert schema["Sales"] == pl.Int64  # Polars sums Int32 in 32 bits
    assert schema["Promo_bw"] == pl.Int8
    assert schema["AfterPromo"] == pl.Float32
    assert schema["Date"] == pl.Date
    assert {name for name, dtype in schema.items() if dtype == pl.Categorical} == {
        *("HolidayKind", "StoreType", "Assortment", "PromoInterval", "State", "Events")
    }


def change(table: str, number: int, **changes: str) -> Callable[[Small], None]:
    return lambda small: small[table][number].update(changes)


def repeat(table: str, number: int, **changes: str) -> Callable[[Small], None]:
    return lambda small: small[table].append({**small[table][number], **changes})


def remove(table: str, number: int) -> Callable[[Small], None]:
    return lambda small: small[table].pop(number) and None


def remove_column(table: str, name: str) -> Callable[[Small], None]:
    return lambda small: [row.pop(name) for row in small[table]] and None


BOTH = "train.csv and test.csv"
FAULTS: dict[str, Callable[[Small], Any]] = {  # by how the message begins
    "train.csv: column Date, row 2: '2015-13-01' is not a date": change("train", 1, Date="2015-13-01"),
    "test.csv: column Promo, row 1: 'yes' is not a whole number": change("test", 0, Promo="yes"),
    "train.csv: column Open, row 1: '2' is not between 0 and 1": change("train", 0, Open="2"),
    "train.csv: column Open, row 1: the value is missing": change("train", 0, Open=""),
    "train.csv: column Promo is missing": remove_column("train", "Promo"),
    "weather.csv: column CloudCover is missing": remove_column("weather", "CloudCover"),
    "weather.csv: column CloudCover, row 4: 'grey' is not": change("weather", 3, CloudCover="grey"),
    f"{BOTH}: Store 8 has no match in store.csv": change("train", 3, Store="8"),
    f"{BOTH}: Store 9 has no match in store.csv": change("test", 1, Store="9"),
    "store.csv: Store 2 has no match in store_states.csv": remove("store_states", 1),
    "store_states.csv: State HB,NI has no match in state_names.csv": remove("state_names", 1),
    "weather.csv: file Hesse has no match in state_names.csv": change("weather", 0, file="Hesse"),
    "train.csv: Store 1, Date 2015-07-31 occurs 2 times": repeat("train", 0),
    "test.csv: Store 1, Date 2015-08-01 occurs 2 times": repeat("test", 0),
    f"{BOTH}: Store 1, Date 2015-07-31 occurs 2 times": change("test", 0, Date="2015-07-31"),
    "store.csv: Store 1 occurs 2 times": repeat("store", 0),
    "store_states.csv: Store 1 occurs 2 times": repeat("store_states", 0),
    "weather.csv: State HE, Date 2015-07-29 occurs 2 times": repeat("weather", 0),
    "googletrend.csv: file Rossmann_DE_HE, week 2015-07-26 - 2015-08-01 occurs 2": repeat("googletrend", 2),
    "googletrend.csv, weeks overlap: State HE, DayNumber 16648 occurs 2 times": change(
        "googletrend", 3, week="2015-08-01 - 2015-08-07"
    ),
    f"{BOTH}: State HE, Date 2015-07-29 has no match in both weather.csv and googletrend.csv": remove("weather", 0),
    f"{BOTH}: State HE, Date 2015-08-02 has no match in both weather.csv and googletrend.csv": remove("googletrend", 3),
    "googletrend.csv: State HE, week 2015-08-02 - 2015-08-08 has no match in the rows of Rossmann_DE": remove(
        "googletrend", 1
    ),
    "googletrend.csv: column week, row 1: '2015-07-26' is not": change("googletrend", 0, week="2015-07-26"),
    "googletrend.csv: file Rossmann_DE, week 2015-07-26 - 2015-07-31 is not a week of seven days": change(
        "googletrend", 0, week="2015-07-26 - 2015-07-31"
    ),
    f"{BOTH}: dates have to lie between 1970-01-01": change("train", 0, Date="1969-07-31"),
    "train.csv: ": lambda small: small["train"].clear(),
}


@pytest.mark.parametrize("says", FAULTS)
def test_a_fault_is_named(small: Small, engine: Engine, says: str) -> None:
    FAULTS[says](small)
    with pytest.raises(DataError) as raised:
        prepare(small, engine)
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"windows": 7}, "windows"),
        ({"window": 0}, "window"),
        ({"horizon": 0}, "horizon"),
        ({"calendar": "whole"}, "calendar"),
        ({"conditions": "unknown"}, "conditions"),
        ({"promo2_weeks_cap": -1}, "promo2_weeks_cap"),
        ({"weather": ["CloudCover", "Sunshine"]}, "Sunshine: no such column in weather.csv"),
        ({"weather": ["CloudCover", "CloudCover"]}, "a column is named twice"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        FeatureOptions(**options)


def test_generated_tables_become_the_table(tmp_path: Path) -> None:
    datasets = {}
    for name in TABLES:
        path = str(tmp_path / f"{name}.csv")
        datasets[f"rossmann.raw_{name}@bytes"] = Bytes(filepath=path)
        datasets[f"rossmann.raw_{name}@frame"] = PolarsFrame(
            filepath=path, file_format="csv", load_args={"infer_schema": False}
        )
    datasets["rossmann.table"] = PolarsFrame(filepath=str(tmp_path / "table.feather"), file_format="ipc")
    catalog = DataCatalog(datasets)
    catalog["params:rossmann.source"] = "generated"
    catalog["params:rossmann.verify"] = True
    catalog["params:rossmann.features"] = FeatureOptions()
    catalog["params:rossmann.split"] = Split(
        kind="window", column="Date", start=dt.date(2015, 7, 10), end=dt.date(2015, 7, 20)
    )
    catalog["params:rossmann.generator"] = GeneratorOptions(
        n_stores=5, first_day=dt.date(2015, 6, 1), last_day=dt.date(2015, 7, 20), test_last_day=dt.date(2015, 7, 31)
    )
    SequentialRunner().run(create_pipeline(), catalog)
    table = catalog.load("rossmann.table")
    raw = pl.read_csv(tmp_path / "train.csv", schema_overrides={"StateHoliday": pl.String})
    assert len(table.filter(pl.col("Sales").is_not_null())) == len(raw.filter(pl.col("Sales") != 0)) > 0
    assert len(table.filter(pl.col("Sales").is_null())) == len(pl.read_csv(tmp_path / "test.csv")) > 0


def test_nodes_are_named_after_their_source_and_tagged_by_stage() -> None:
    nodes = [*create_pipeline().nodes, *create_submission_pipeline("rossmann_forecast.forecast").nodes]
    assert all(node.name.startswith("rossmann.") for node in nodes)
    assert {tag for node in nodes for tag in node.tags} == {"acquire", "prepare", "predict"}
    assert create_pipeline().outputs() == {"rossmann.table"}
