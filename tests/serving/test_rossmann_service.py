"""The Rossmann service answers rows as in test.csv, and what it answers is what a run of the pipeline forecasts."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from small_rossmann import COLUMNS, SPLIT, Batch, as_pandas, raw_tables

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import measure_service
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.service import RossmannService
from embedline.pipelines.rossmann.service_nodes import hold_out
from embedline.pipelines.tabular import nodes as learner
from embedline.serving.service import Service

RELATIVE = 1e-6  # rows in other batches: float32 sums in another order
LAST_KNOWN = 16_647  # day number of the last day with sales, 31 July 2015


@pytest.fixture(scope="module")
def batch() -> Batch:
    """What a run makes of the generated tables."""
    return Batch(raw_tables()).fitted()


@pytest.fixture(scope="module")
def model(batch: Batch) -> Any:
    return batch.train()


@pytest.fixture(scope="module")
def packed(batch: Batch, model: Any) -> Service:
    """The service after a journey through its file."""
    return Service.from_bytes(batch.pack(model).to_bytes())


@pytest.fixture(scope="module")
def service(packed: Service) -> RossmannService:
    opened = packed.open()
    assert isinstance(opened, RossmannService)
    return opened


@pytest.fixture
def rows(batch: Batch) -> pd.DataFrame:
    """test.csv as pandas reads it."""
    return as_pandas(batch.raw["test"])


def sales_by_day(answers: pd.DataFrame) -> dict[tuple[int, str], float]:
    return dict(zip(zip(answers["Store"], answers["Date"], strict=True), answers["Sales"], strict=True))


def edited(batch: Batch, where: pl.Expr, **values: str) -> Batch:
    """The pipeline on a test.csv in which some rows say something else; the same encoder."""
    test = batch.raw["test"]
    assert len(test.filter(where))
    changes = {name: pl.when(where).then(pl.lit(value)).otherwise(pl.col(name)) for name, value in values.items()}
    return replace(batch, raw={**batch.raw, "test": test.with_columns(**changes)})


def test_all_test_rows_are_answered_as_the_batch_forecasts_them(service, batch, model, rows) -> None:
    answers = service.predict(rows)
    expected = batch.forecast(model)
    assert answers["Id"].tolist() == rows["Id"].tolist()
    assert sales_by_day(answers) == expected  # to the last bit: they were forecast in one batch
    assert rows["Open"].isna().sum() == 11  # blank is open
    assert (answers["Sales"][rows["Open"].isna()] > 0).all()
    assert (answers["Sales"][rows["Open"] == 0] == 0).all() and (rows["Open"] == 0).any()


def test_computed_rows_equal_those_that_are_looked_up(packed, service, rows) -> None:
    computing = packed.open()
    computing._forecast = {}  # type: ignore[attr-defined]
    looked_up, computed = service.predict(rows), computing.predict(rows)
    assert computed["Sales"].to_numpy() == pytest.approx(looked_up["Sales"].to_numpy(), rel=RELATIVE)
    one = [computing.predict(rows.iloc[[row]])["Sales"].item() for row in (0, 7, len(rows) - 1)]
    assert one == pytest.approx(looked_up["Sales"].iloc[[0, 7, len(rows) - 1]].tolist(), rel=RELATIVE)


def test_a_changed_day_changes_its_neighbours_as_in_the_batch(service, batch, model, rows) -> None:
    store, day = "1", "2015-08-12"
    where = (pl.col("Store") == store) & (pl.col("Date") == day)
    changed = edited(batch, where, Promo="1", StateHoliday="a", SchoolHoliday="0")
    expected = changed.forecast(model)
    answers = sales_by_day(service.predict(as_pandas(changed.raw["test"])))
    assert answers == {key: pytest.approx(value, rel=RELATIVE) for key, value in expected.items()}
    before = batch.forecast(model)
    moved = {key for key, value in expected.items() if value != pytest.approx(before[key], rel=1e-4)}
    assert (1, day) in moved and (1, "2015-08-11") in moved  # it has a holiday tomorrow now
    assert {key[0] for key in moved} == {1}
    # Asked for alone, the changed day stands in the calendar as known; its neighbour, asked alone, is as it was.
    alone = service.predict(as_pandas(changed.raw["test"].filter(where)))
    assert sales_by_day(alone) == {(1, day): pytest.approx(expected[1, day], rel=RELATIVE)}
    neighbour = rows[(rows["Store"] == 1) & (rows["Date"] == "2015-08-11")]
    assert sales_by_day(service.predict(neighbour)) == {(1, "2015-08-11"): before[1, "2015-08-11"]}


def test_days_that_the_calendar_lacks_extend_it_as_in_the_batch(service, batch, model) -> None:
    test = batch.raw["test"]
    without = (set(batch.raw["store"]["Store"]) - set(test["Store"])).pop()  # a store with no day to forecast
    days = test.filter(pl.col("Store") == test["Store"][0], pl.col("Date") < "2015-08-04").sort("Date")
    further = days.with_columns(Store=pl.lit(without), Id=pl.lit("99999") + pl.col("DayOfWeek"))
    # The third day alone: its store has no row on the days before, as in a test.csv with this day alone.
    for asked, days in ((further, ("01", "02", "03")), (further.tail(1), ("03",))):
        forecast = replace(batch, raw={**batch.raw, "test": pl.concat([test, asked])}).forecast(model)
        answers = service.predict(as_pandas(asked))
        assert answers["Id"].tolist() == [999996, 999997, 999991][-len(days) :]
        keys = [(int(without), f"2015-08-{day}") for day in days]
        assert sales_by_day(answers) == {key: pytest.approx(forecast[key], rel=RELATIVE) for key in keys}
    assert service.predict(as_pandas(further))["Sales"].iloc[0] > 0


def test_recency_and_lagged_conditions_are_those_of_the_batch(batch, rows) -> None:
    store = {**as_row(batch.raw["store"]), "Store": "901"}  # with no day in the tables
    raw = {**batch.raw, "store": pl.concat([batch.raw["store"], pl.DataFrame([store])])}
    raw["store_states"] = pl.concat([raw["store_states"], pl.DataFrame({"Store": ["901"], "State": ["BE"]})])
    lagged = Batch(raw, features=FeatureOptions(conditions="lagged")).fitted()
    model = lagged.train()
    packed = Service.from_bytes(lagged.pack(model).to_bytes())
    answers = sales_by_day(packed.open().predict(rows))
    assert answers == lagged.forecast(model)
    # Other promotions, and days of the new store: the grid has a row for each.
    test = raw["test"].with_columns(Promo=pl.when(pl.col("Promo") == "1").then(pl.lit("0")).otherwise(pl.lit("1")))
    first = test.filter(pl.col("Store") == test["Store"][0])
    asked = pl.concat([test, first.with_columns(Store=pl.lit("901"), Id=pl.col("Id") + "999")])
    expected = replace(lagged, raw={**raw, "test": asked}).forecast(model)
    found = sales_by_day(packed.open().predict(as_pandas(asked)))
    assert found == {key: pytest.approx(value, rel=RELATIVE) for key, value in expected.items()}
    assert {key for key in found if key[0] == 901} and found != answers
    # Nothing is asked of the weather of the days to forecast, and the network reads what the recency says.
    until = {name: packed.tables[name].filter(pl.col("DayNumber") <= LAST_KNOWN) for name in ("weather", "trends")}
    without = replace(packed, tables={**packed.tables, **until}).open()
    assert sales_by_day(without.predict(as_pandas(asked))) == found
    doubled = packed.tables["recency"].with_columns(pl.col("SalesMedian91") + 1)
    other = replace(packed, tables={**packed.tables, "recency": doubled}).open()
    assert sales_by_day(other.predict(as_pandas(asked))) != found


def as_row(table: pl.DataFrame) -> dict[str, Any]:
    """The first row."""
    return table.row(0, named=True)


def test_rows_may_come_as_json_or_as_other_types_of_pandas(service, rows) -> None:
    expected = service.predict(rows)["Sales"].tolist()
    records = json.loads(rows.to_json(orient="records"))
    assert records[0].keys() == set(rows.columns)
    assert service.predict(pd.DataFrame(records))["Sales"].tolist() == expected
    numeric = [{**record, "StateHoliday": 0} if record["StateHoliday"] == "0" else record for record in records]
    assert service.predict(pd.DataFrame(numeric))["Sales"].tolist() == expected
    dated = rows.assign(Date=pd.to_datetime(rows["Date"]), Open=rows["Open"].astype("Int64"))
    assert service.predict(dated)["Sales"].tolist() == expected
    open_days = rows[rows["Open"] != 0]
    without = open_days.drop(columns=["Open", "Id"])[::-1]
    answers = service.predict(without)
    assert list(answers.columns) == ["Store", "Date", "Sales"]
    assert answers["Sales"].tolist() == service.predict(open_days)["Sales"].tolist()[::-1]


def test_a_number_may_be_written_in_other_ways(service, rows) -> None:
    text = rows.head(4).astype({name: str for name in ("Store", "Promo", "DayOfWeek")})
    what_if = text.assign(Promo=["1", "0", "1", "0"], Open=["1", "0", "1", "1"])
    other = what_if.assign(Store="0" + what_if["Store"], Promo="+" + what_if["Promo"], Open="0" + what_if["Open"])
    answers = service.predict(other)
    assert answers["Sales"].tolist() == service.predict(what_if)["Sales"].tolist()
    assert answers["Sales"].iloc[1] == 0 and answers["Store"].tolist() == rows["Store"].head(4).tolist()


def test_the_same_row_twice_is_answered_twice_and_two_of_one_day_are_refused(packed, service, rows) -> None:
    twice = pd.concat([rows.head(2), rows.head(2).assign(Id=[7, 8])])
    answers = service.predict(twice)
    assert answers["Sales"].tolist()[:2] == answers["Sales"].tolist()[2:]
    assert answers["Id"].tolist()[2:] == [7, 8]
    what_if = twice.assign(Promo=1 - twice["Promo"])
    assert service.predict(what_if)["Sales"].tolist()[2:] == service.predict(what_if.head(2))["Sales"].tolist()
    both = pd.concat([rows.head(1), rows.head(1).assign(Promo=1 - rows["Promo"].iloc[0])])
    with pytest.raises(DataError, match=r"^the request: Store \d+, Date 2015-\d\d-\d\d occurs 2 times"):
        service.predict(both)


BAD = [("Store", 4711, "store.csv has no store 4711"), ("Store", "x", "'x'"), ("Store", 10**10, "'10000000000'")]
BAD += [("Store", "9" * 5000, r"'9{12}\.\.\.9{13}'"), ("DayOfWeek", 9, "'9'"), ("Date", "yesterday", "'yesterday'")]
BAD += [("Date", None, "the value is missing"), ("Open", 0.5, "'0.5'"), ("StateHoliday", "A", "'A'")]
BAD += [("StateHoliday", "\ud800", r"'\\ud800'"), ("Promo", [1, 2], r"'\[1, 2\]'")]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        *((column, value, f"column {column}, row 3: {shown}") for column, value, shown in BAD),
        ("Date", "2019-01-01", "State .*, Date 2019-01-01 has no match in both weather.csv and"),
        ("Date", "1969-12-31", ".*between 1970-01-01 and 2149-06-06"),
    ],
)
def test_a_bad_row_is_named(service, rows, column, value, message) -> None:
    bad = rows.head(5).astype(object)
    bad.iloc[2, bad.columns.get_loc(column)] = value
    with pytest.raises(DataError, match=f"^the request: {message}"):
        service.predict(bad)


def test_a_missing_column_is_named_and_no_rows_have_no_answers(service, rows) -> None:
    for column in ("Store", "DayOfWeek", "Date", "Promo", "StateHoliday", "SchoolHoliday"):
        with pytest.raises(DataError, match=f"'{column}'"):
            service.predict(rows.drop(columns=column))
    answers = service.predict(rows.head(0))
    assert list(answers.columns) == ["Id", "Store", "Date", "Sales"] and len(answers) == 0


def test_tables_as_spark_has_them_give_the_same_answers_and_hold_no_sales(packed, service, rows) -> None:
    text = {name: table.cast({pl.Categorical: pl.String}) for name, table in packed.tables.items()}
    assert any(text[name].schema != table.schema for name, table in packed.tables.items())
    what_if = rows.head(3).assign(Promo=1 - rows["Promo"].head(3))
    expected = service.predict(what_if)["Sales"].tolist()
    assert replace(packed, tables=text).open().predict(what_if)["Sales"].tolist() == expected
    assert not {"Sales", "Customers"} & set(packed.tables["calendar"].columns)
    assert np.isfinite(packed.tables["ahead"]["predicted"].to_numpy()).all()
    answers = service.predict(pd.DataFrame(packed.example))
    assert answers["Id"].tolist() == [row["Id"] for row in packed.example]


def test_the_service_measures_on_raw_rows_what_the_run_measured(packed, batch, model) -> None:
    evaluation = hold_out(batch.table, COLUMNS, SPLIT)
    assert evaluation.columns[-1] == "actual" and "Customers" not in evaluation.columns
    assert evaluation["Date"].min() == "2015-06-19" and evaluation["Date"].max() == "2015-07-31"
    report = learner.ReportOptions()
    predictions = learner.predict(
        batch.table, batch.encoded, model, pl.DataFrame(), pl.DataFrame(), COLUMNS, SPLIT, report
    )
    metrics = learner.evaluate(predictions, model, {}, {})
    measured = measure_service(packed, evaluation, metrics)
    assert (measured["metric"], measured["better"]) == ("exp_rmspe", "lower")
    assert measured["rows"] == len(predictions) == len(evaluation)
    assert measured["value"] == pytest.approx(metrics["exp_rmspe"], rel=RELATIVE)
    with pytest.raises(DataError, match=r"that of the model 0\.5"):
        measure_service(packed, evaluation, {**metrics, "exp_rmspe": 0.5})
