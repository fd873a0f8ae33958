"""Dates and times as inputs: parts by hand, on both engines, in training, in a service and in the importance."""

import math
from datetime import date, datetime
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import hold_out_table, pack_table
from embedline.pipelines.tabular import nodes
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.dates import add_parts, fit_dates
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.importance import input_variables
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, ReportOptions, TableTraining

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
TIMES = [datetime(1970, 1, 1), datetime(2016, 2, 29, 18, 30), None, datetime(2023, 12, 31, 6)]


def _frame(engine: str, values: dict[str, list[Any]]) -> nw.DataFrame[Any]:
    made = pl.DataFrame(values) if engine == "polars" else pd.DataFrame(values)
    return nw.from_native(made, eager_only=True)


def _column(frame: nw.DataFrame[Any], name: str) -> list[Any]:
    return [None if pd.isna(value) else value for value in frame[name].to_list()]


@ENGINES
def test_parts_by_hand(engine: str) -> None:
    table = _frame(engine, {"sold": TIMES})
    (parts,) = fit_dates(table, ["sold"])
    assert parts.clock
    found = add_parts(table, [parts])
    assert found.columns == ["sold", *parts.categorical, *parts.continuous]
    assert _column(found, "sold.days") == [0.0, 16_860 + 18.5 / 24, None, 19_722.25]
    assert _column(found, "sold.month") == [1, 2, None, 12]
    assert _column(found, "sold.weekday") == [4, 1, None, 7]
    turn = 2 * math.pi * 60 / 365.2425  # 29 February is the 60th day
    assert _column(found, "sold.year_sin")[1] == pytest.approx(math.sin(turn))
    assert _column(found, "sold.year_cos")[1] == pytest.approx(math.cos(turn))
    assert _column(found, "sold.day_sin") == [0.0, pytest.approx(math.sin(2 * math.pi * 18.5 / 24)), None, 1.0]


@ENGINES
def test_days_without_a_clock_have_no_time_of_day(engine: str) -> None:
    table = _frame(engine, {"sold": [datetime(2020, 5, 1), datetime(2020, 5, 2)]})
    (parts,) = fit_dates(table, ["sold"])
    assert not parts.clock
    assert add_parts(table, [parts]).columns == [
        *("sold", "sold.month", "sold.weekday", "sold.days", "sold.year_sin", "sold.year_cos")
    ]


def test_a_time_with_a_zone_counts_by_its_own_clock() -> None:
    late = pl.Series([datetime(2020, 1, 1, 23)]).dt.replace_time_zone(
        "America/New_York"
    )  # 4 o'clock of 2 January in UTC
    table = nw.from_native(pl.DataFrame({"sold": late}), eager_only=True)
    found = add_parts(table, fit_dates(table, ["sold"]))
    assert _column(found, "sold.weekday") == [3]
    assert _column(found, "sold.days") == [pytest.approx(18_262 + 23 / 24)]


def test_a_zone_that_narwhals_does_not_know_goes_through() -> None:
    times = pd.Series(pd.date_range("2020-01-01 23:00", periods=4, freq="7D", tz="America/New_York"))
    table = pd.DataFrame({"sold": times, "price": [1.0, 2.0, 3.0, 4.0]})
    columns, split = Columns(dates=("sold",), target="price"), Split(kind="none")
    encoder = nodes.fit_encoder(table, columns, split, EncodingOptions())
    assert encoder["categorical"]["sold.weekday"]["levels"] == [3]
    assert nodes.encode(table, encoder, columns, split)["value:sold.days"].is_monotonic_increasing


def _table(n_rows: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(0)
    days = pl.date_range(date(2020, 1, 1), date(2023, 12, 31), "1d", eager=True).sample(n_rows, seed=1)
    heat = np.cos(2 * np.pi * days.dt.ordinal_day().to_numpy() / 365.25) + 0.3 * (days.dt.weekday().to_numpy() == 7)
    values = {
        "sold": days,
        "size": random.normal(size=n_rows),
        "price": 10 + 5 * heat + 0.1 * random.normal(size=n_rows),
    }
    return pl.DataFrame(values).with_columns(sold=pl.when(pl.int_range(pl.len()) != 7).then("sold"))


COLUMNS = Columns(continuous=("size",), dates=("sold",), target="price", time="sold")
RANDOM = Split(kind="random", seed=1)


def test_a_missing_date_has_a_flag_and_the_middle_of_its_waves() -> None:
    table = nw.from_native(_table(), eager_only=True)
    encoder = fit_encoder(table, COLUMNS, EncodingOptions())
    assert encoder.flags == ("sold.days",)
    assert encoder.inputs == ("size", "sold")
    encoded = encode(table, Encoder.model_validate(encoder.model_dump(mode="json")))
    assert encoded["code:sold.days_na"].to_list().index(2) == 7
    scaler = encoder.continuous["sold.year_sin"]
    assert encoded["value:sold.year_sin"][7] == pytest.approx(-scaler.mean / scaler.std, rel=1e-4)
    assert encoded["sold"].to_list() == table["sold"].to_list()  # the key stays as it was


def test_a_network_learns_the_seasons_and_a_service_answers_rows_with_dates() -> None:
    table = _table()
    encoder = nodes.fit_encoder(table, COLUMNS, RANDOM, EncodingOptions())
    encoded = nodes.encode(table, encoder, COLUMNS, RANDOM)
    training = TableTraining(epochs=40, batch_size=32, lr=0.01, device="cpu", precision="fp32")
    model, _ = nodes.train(encoded, encoder, NetworkOptions(layers=(32,)), training)
    importance = nodes.measure_importance(encoded, model, ReportOptions())
    assert importance["variable"].to_list()[0] == "sold" and set(importance["variable"]) == {"sold", "size"}
    held_out = hold_out_table(table, COLUMNS, RANDOM, encoder).drop_nulls()
    assert held_out.columns == ["size", "sold", "actual"]
    service = pack_table(model, table).open()
    found = service.predict(held_out.drop("actual").to_pandas())["predicted"].to_numpy()
    assert np.sqrt(np.mean((found - held_out["actual"].to_numpy()) ** 2)) < 1.2  # of a deviation of 3.6
    as_text = held_out.drop("actual").with_columns(pl.col("sold").cast(pl.Date).cast(pl.String)).to_pandas()
    assert service.predict(as_text)["predicted"].to_numpy() == pytest.approx(found)
    missing = service.predict(pd.DataFrame({"size": [0.0], "sold": [None]}))
    assert np.isfinite(missing["predicted"]).all()
    with pytest.raises(DataError) as caught:
        service.predict(pd.DataFrame({"size": [0.0], "sold": ["31 July"]}))
    assert "'sold', row 1" in str(caught.value) and "31 July" in str(caught.value)


def test_variables_of_a_date_are_shuffled_together() -> None:
    encoder = fit_encoder(nw.from_native(_table()), COLUMNS, EncodingOptions())
    by_name = {variable.name: variable for variable in input_variables(encoder)}
    assert set(by_name) == {"size", "sold"}
    assert len(by_name["sold"].codes) == 3 and len(by_name["sold"].values) == 3  # month, weekday, flag; days, two waves


@pytest.mark.parametrize("values", [["2020-01-01", "2020-01-02"], [1, 2]])
def test_a_column_that_holds_no_dates_is_named(values: list[Any]) -> None:
    table = pl.DataFrame({"sold": values, "price": [1.0, 2.0]})
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(table, Columns(dates=("sold",), target="price"), Split(kind="none"), EncodingOptions())
    assert "'sold'" in str(caught.value) and "columns.dates" in str(caught.value)
