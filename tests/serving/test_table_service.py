"""The table service answers raw rows of a canonical table as the batch nodes do."""

import json
from typing import Any

import pandas as pd
import polars as pl
import pytest
from small_table import CLASSES, SALES, SPLIT, Trained

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import hold_out_table, measure_service
from embedline.pipelines.publish.pipeline import PUBLISH, create_table_publish_pipeline
from embedline.pipelines.tabular import nodes as learner
from embedline.serving.columns import signature_of
from embedline.serving.tables import TableService


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained(CLASSES)


@pytest.fixture(scope="module")
def service(trained: Trained) -> Any:
    opened = trained.packed.open()
    assert isinstance(opened, TableService)
    return opened


@pytest.fixture
def rows(trained: Trained) -> pd.DataFrame:
    """Held-out rows as a request."""
    held_out = trained.table.filter(pl.col("held_out"))
    return held_out.select("row", "shop", "colour", "size", "member", "heat", "year").to_pandas()


def test_answers_are_those_of_the_batch(service, trained, rows) -> None:
    answers, expected = service.predict(rows), trained.predictions()
    assert list(answers.columns) == ["row", "predicted", "p_high", "p_low"]
    assert answers["row"].tolist() == expected["row"].to_list()
    assert answers["predicted"].tolist() == expected["predicted"].to_list()
    assert answers["p_high"].tolist() == expected["p_high"].to_list()
    assert set(answers["predicted"]) == {"high", "low"}
    one = service.predict(rows.iloc[[5]].drop(columns="row"))
    assert one["p_high"].item() == pytest.approx(answers["p_high"][5], rel=1e-6)
    assert list(one.columns) == ["predicted", "p_high", "p_low"]


def test_json_gives_the_same_answers(service, rows) -> None:
    records = json.loads(rows.to_json(orient="records", double_precision=15))
    assert any(record["size"] is None for record in records) and any(record["colour"] is None for record in records)
    again = service.predict(pd.DataFrame(records))
    assert again["p_high"].to_numpy() == pytest.approx(service.predict(rows)["p_high"].to_numpy(), rel=1e-6)
    alone = pd.DataFrame(records[:1]).assign(colour=None, size=None)  # columns without any value
    batch = service.predict(pd.DataFrame(records).assign(colour=None, size=None))
    assert service.predict(alone)["p_high"].item() == pytest.approx(batch["p_high"][0], rel=1e-6)


def test_what_training_never_saw_counts_as_missing(service, rows) -> None:
    unseen = service.predict(rows.assign(shop="shop 77", size=99.0, colour="green"))
    missing = service.predict(rows.assign(shop=None, size=None, colour=None))
    assert unseen["p_high"].tolist() == missing["p_high"].tolist()
    assert unseen["p_high"].tolist() != service.predict(rows)["p_high"].tolist()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shop", 5, "the request: column 'shop', row 3: 5 is not text"),
        ("size", 36.5, "the request: column 'size', row 3: 36.5 is not a whole number"),
        ("size", "36", "the request: column 'size', row 3: '36' is not a whole number"),
        ("size", 2.0**70, r"the request: column 'size', row 3: 1\.18\d+e\+21 is not a whole number"),
        ("member", "yes", "the request: column 'member', row 3: 'yes' is not true or false"),
        ("member", 1, "the request: column 'member', row 3: 1 is not true or false"),
        ("heat", "hot", "the request: column 'heat', row 3: 'hot' is not a finite number"),
        ("heat", float("inf"), "the request: column 'heat', row 3: inf is not a finite number"),
        pytest.param("heat", 10**400, r"the request: column 'heat', row 3: 1000.*0 is not a finite number", id="huge"),
        ("shop", "half \ud800", r"the request: column 'shop', row 3: 'half \\ud800' is not text"),
        ("colour", ["red"], r"the request: column 'colour', row 3: \['red'\] is not text"),
    ],
)
def test_a_bad_value_is_named(service, rows, column, value, message) -> None:
    bad = rows.head(5).astype(object)
    bad.at[2, column] = value
    with pytest.raises(DataError, match=f"^{message}"):
        service.predict(bad)


@pytest.mark.parametrize("column", ["shop", "colour", "size", "member", "heat", "year"])
def test_a_missing_column_is_named(service, rows, column) -> None:
    with pytest.raises(DataError, match=f"'{column}'"):
        service.predict(rows.drop(columns=column))


def test_no_rows_have_no_answers(service, rows) -> None:
    answers = service.predict(rows.head(0))
    assert list(answers.columns) == ["row", "predicted", "p_high", "p_low"] and len(answers) == 0


def test_columns_and_example_are_those_of_the_table(trained) -> None:
    types = {column.name: (column.type, column.required) for column in trained.packed.columns}
    assert types == {
        "shop": ("string", True),
        "colour": ("string", True),
        "size": ("double", True),  # whole numbers, some missing
        "member": ("boolean", True),
        "heat": ("double", True),
        "year": ("long", True),
        "row": ("long", False),
    }
    signature = signature_of(trained.packed.columns, trained.predictions().head(1).to_pandas())
    assert {column.name: str(column.type) for column in signature.inputs}["member"] == "Any"  # MLflow: missing is False
    assert len(trained.packed.example) == 2 and trained.packed.example[1]["row"] == 1
    assert len(trained.packed.open().predict(pd.DataFrame(trained.packed.example))) == 2


def test_the_figure_on_raw_rows_is_that_of_the_run(trained) -> None:
    evaluation = hold_out_table(trained.table, CLASSES, SPLIT, trained.encoder)
    assert set(evaluation.columns) == {"shop", "colour", "size", "member", "heat", "year", "actual"}
    metrics = learner.evaluate(trained.predictions(), trained.model, trained.encoder, {})
    measured = measure_service(trained.packed, evaluation, metrics)
    assert measured["metric"] == "accuracy" and measured["better"] == "higher" and measured["rows"] == 200
    assert measured["value"] == metrics["accuracy"] > 0.8


def test_of_several_targets_the_first_is_measured() -> None:
    several = Trained(SALES)
    evaluation = hold_out_table(several.table, SALES, SPLIT, several.encoder)
    assert evaluation["actual"].dtype == pl.Float64
    metrics = learner.evaluate(several.predictions(), several.model, several.encoder, {})
    measured = measure_service(several.packed, evaluation, metrics)
    assert measured["metric"] == "targets.sales.rmse" and measured["better"] == "lower"
    assert measured["value"] == pytest.approx(metrics["targets"]["sales"]["rmse"], rel=1e-9)
    answers = several.packed.open().predict(several.table.head(3).to_pandas())
    assert list(answers.columns) == ["row", "sales.predicted", "grade.predicted", "grade.p_high", "grade.p_low"]


def test_a_source_of_ones_own_is_published_by_one_line() -> None:
    publish = create_table_publish_pipeline("adult_nine", table="adult.table")
    assert publish.inputs() == {
        "adult.table",
        "adult_nine.model",
        "adult_nine.encoder",
        "adult_nine.metrics",
        "params:adult_nine.columns",
        "params:adult_nine.split",
    }
    assert publish.all_outputs() == {"adult_nine.service", "adult_nine.evaluation", "adult_nine.service_metrics"}
    assert [node.name for node in publish.nodes if PUBLISH in node.tags] == ["adult_nine.measure_service"]
    assert "adult.table" in create_table_publish_pipeline("adult").inputs()


def test_a_variable_of_the_name_actual_cannot_be_published(trained) -> None:
    encoder = {**trained.encoder, "continuous": {"actual": {}}}
    with pytest.raises(DataError, match="the table has a variable 'actual'"):
        hold_out_table(trained.table, CLASSES, SPLIT, encoder)
