"""The preparation of the real tables: every feature against a row-by-row reference, and the facts of the whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from embedline.pipelines.rossmann.files import read_tables
from pipelines.rossmann.conftest import ENGINES, LESSONS, Rows, column, prepare, rows_of_stores
from pipelines.rossmann.reference import reference_table

# Among them stores without test rows, with half a year missing, without competition date or distance, open on Sundays,
# without a row on the first day (988), and in every state.
STORES = {1, 2, 3, 10, 13, 16, 20, 23, 28, 85, 109, 190, 262, 274, 291, 423, 539, 622, 769, 879, 983, 988, 1045, 1114}


@pytest.fixture(scope="module")
def contents(real_data: Path) -> dict[str, bytes]:
    return read_tables(str(real_data / "rossmann.tgz"))


@pytest.fixture(scope="module")
def some(contents: dict[str, bytes]) -> dict[str, Rows]:
    return rows_of_stores(contents, map(str, STORES))


@pytest.fixture(scope="module")
def expected(some: dict[str, Rows]) -> list[dict[str, Any]]:
    return reference_table(some)


@pytest.mark.parametrize("engine", [ENGINES["polars"], ENGINES["pandas"]], ids=["polars", "pandas"])
def test_features_equal_the_row_by_row_reference(
    some: dict[str, Rows], expected: list[dict[str, Any]], engine: Callable[[Rows], Any]
) -> None:
    table = prepare(some, engine, LESSONS)
    assert len(table) == len(expected) > 16_000
    for name in expected[0]:
        found = column(table, name)
        if name == "Date":
            found = [str(value)[:10] for value in found]
        wanted = [row[name] for row in expected]
        differing = [row for row, value in zip(expected, found, strict=True) if row[name] != value]
        assert found == wanted, f"{name} differs on {len(differing)} rows, first {differing[0]}"


def test_the_reference_meets_rows_without_some_events(expected: list[dict[str, Any]]) -> None:
    for name in ("AfterPromo", "AfterStateHoliday", "BeforeStateHoliday", "BeforeSchoolHoliday", "ClosedBefore"):
        assert any(row[name] is None for row in expected), name
    assert max(row["ClosedBefore"] or 0 for row in expected) > 150
    assert {row["State"] for row in expected} == set("BE BW BY HE HH NW RP SH SN ST TH".split()) | {"HB,NI"}


def test_facts_of_the_whole_table(contents: dict[str, bytes]) -> None:
    frames = {name: pl.read_csv(content, infer_schema=False) for name, content in contents.items()}
    table = prepare(frames, lambda frame: frame)
    labelled = table.filter(pl.col("Sales").is_not_null())
    assert len(labelled) == 844_338
    assert labelled["Sales"].sum() == 5_873_180_623
    assert labelled["Sales"].min() > 0
    assert len(table) - len(labelled) == 41_088
    assert sorted(table["Id"].drop_nulls()) == list(range(1, 41_089))
    assert table.select("trend", "trend_DE", "Mean_TemperatureC", "Open").null_count().row(0) == (0, 0, 0, 0)
    assert table.select("Store", "Date").equals(table.select("Store", "Date").sort("Store", "Date"))
    assert str(labelled["Date"].min()) == "2013-01-01"
    assert str(table["Date"].max()) == "2015-09-17"
    lists = (
        "Store DayOfWeek Year Month Day StateHoliday CompetitionMonthsOpen Promo2Weeks StoreType Assortment "
        "PromoInterval CompetitionOpenSinceYear Promo2SinceYear State Week Events Promo_fw Promo_bw StateHoliday_fw "
        "StateHoliday_bw SchoolHoliday_fw SchoolHoliday_bw CompetitionDistance Max_TemperatureC Mean_TemperatureC "
        "Min_TemperatureC "
        "Max_Humidity Mean_Humidity Min_Humidity Max_Wind_SpeedKm_h Mean_Wind_SpeedKm_h CloudCover trend trend_DE "
        "AfterStateHoliday BeforeStateHoliday Promo SchoolHoliday"
    ).split()
    assert set(lists) <= set(table.columns)
