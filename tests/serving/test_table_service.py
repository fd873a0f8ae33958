"""The table service answers raw rows of a canonical table as the batch nodes do."""

import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from small_table import CLASSES, SALES, SPLIT, Trained

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import hold_out_table, measure_service, pack_table
from embedline.pipelines.publish.pipeline import PUBLISH, create_table_publish_pipeline
from embedline.pipelines.tabular import nodes as learner
from embedline.serving.columns import signature_of
from embedline.serving.service import Service
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
    for name in ("row", "predicted", "p_high"):
        assert answers[name].tolist() == expected[name].to_list()
    assert set(answers["predicted"]) == {"high", "low"}
    one = service.predict(rows.iloc[[5]].drop(columns="row"))
    assert one["p_high"].item() == pytest.approx(answers["p_high"][5], rel=1e-6)
    assert list(one.columns) == ["predicted", "p_high", "p_low"]
    records = json.loads(rows.to_json(orient="records", double_precision=15))
    assert any(record["size"] is None for record in records) and any(record["colour"] is None for record in records)
    again = service.predict(pd.DataFrame(records))
    assert again["p_high"].to_numpy() == pytest.approx(answers["p_high"].to_numpy(), rel=1e-6)
    alone = pd.DataFrame(records[:1]).assign(colour=None, size=None)  # columns without any value
    batch = service.predict(pd.DataFrame(records).assign(colour=None, size=None))
    assert service.predict(alone)["p_high"].item() == pytest.approx(batch["p_high"][0], rel=1e-6)


def test_what_training_never_saw_counts_as_missing(service, rows) -> None:
    unseen = service.predict(rows.assign(shop="shop 77", size=99.0, colour="green"))
    missing = service.predict(rows.assign(shop=None, size=None, colour=None))
    assert unseen["p_high"].tolist() == missing["p_high"].tolist()
    assert unseen["p_high"].tolist() != service.predict(rows)["p_high"].tolist()


BAD = [("shop", 5, "5 is not text"), ("shop", "half \ud800", r"'half \\ud800' is not text")]
BAD += [("colour", ["red"], r"\['red'\] is not text"), ("size", 36.5, "36.5 is not a whole")]
BAD += [("size", "36", "'36' is not a whole"), ("size", 2.0**70, r"1\.18\d+e\+21 is not a whole")]
BAD += [("member", "yes", "'yes' is not true or false"), ("member", 1, "1 is not true or false")]
BAD += [("heat", value, f"{shown} is not a finite") for value, shown in (("hot", "'hot'"), (float("inf"), "inf"))]
BAD += [("heat", 10**400, "1000.*0 is not a finite")]


@pytest.mark.parametrize(("column", "value", "shown"), BAD, ids=range(len(BAD)))
def test_a_bad_value_is_named(service, rows, column, value, shown) -> None:
    bad = rows.head(5).astype(object)
    bad.at[2, column] = value
    with pytest.raises(DataError, match=f"^the request: column '{column}', row 3: {shown}"):
        service.predict(bad)


def test_a_missing_column_is_named_and_no_rows_have_no_answers(service, rows) -> None:
    for column in ("shop", "colour", "size", "member", "heat", "year"):
        with pytest.raises(DataError, match=f"'{column}'"):
            service.predict(rows.drop(columns=column))
    answers = service.predict(rows.head(0))
    assert list(answers.columns) == ["row", "predicted", "p_high", "p_low"] and len(answers) == 0


def test_columns_and_example_are_those_of_the_table(trained) -> None:
    types = {column.name: (column.type, column.required) for column in trained.packed.columns}
    inputs = {"shop": "string", "colour": "string", "member": "boolean", "heat": "double", "year": "long"}
    inputs["size"] = "double"  # whole numbers, some missing
    assert types == {**{name: (kind, True) for name, kind in inputs.items()}, "row": ("long", False)}
    signature = signature_of(trained.packed.columns, trained.predictions().head(1).to_pandas())
    assert {column.name: str(column.type) for column in signature.inputs}["member"] == "Any"  # MLflow: missing is False
    assert len(trained.packed.example) == 2 and trained.packed.example[1]["row"] == 1
    assert len(trained.packed.open().predict(pd.DataFrame(trained.packed.example))) == 2


def test_the_figure_on_raw_rows_is_that_of_the_run(trained) -> None:
    evaluation = hold_out_table(trained.table, CLASSES, SPLIT, trained.encoder)
    assert set(evaluation.columns) == {"shop", "colour", "size", "member", "heat", "year", "actual"}
    metrics = learner.evaluate(trained.predictions(), trained.model, {}, {})
    measured = measure_service(trained.packed, evaluation, metrics)
    assert (measured["metric"], measured["better"], measured["rows"]) == ("accuracy", "higher", 200)
    assert measured["value"] == metrics["accuracy"] > 0.8
    encoder = {**trained.encoder, "continuous": {"actual": trained.encoder["continuous"]["heat"]}}
    with pytest.raises(DataError, match="the table has a variable 'actual'"):
        hold_out_table(trained.table, CLASSES, SPLIT, encoder)


def test_of_several_targets_the_first_is_measured() -> None:
    several = Trained(SALES)
    evaluation = hold_out_table(several.table, SALES, SPLIT, several.encoder)
    assert evaluation["actual"].dtype == pl.Float64
    metrics = learner.evaluate(several.predictions(), several.model, {}, {})
    measured = measure_service(several.packed, evaluation, metrics)
    assert measured["metric"] == "targets.sales.rmse" and measured["better"] == "lower"
    assert measured["value"] == pytest.approx(metrics["targets"]["sales"]["rmse"], rel=1e-9)
    answers = several.packed.open().predict(several.table.head(3).to_pandas())
    assert list(answers.columns) == ["row", "sales.predicted", "grade.predicted", "grade.p_high", "grade.p_low"]


def test_answers_have_the_intervals_of_the_run() -> None:
    run, bounds = Trained(SALES), {"sales": {"80": [-2.0, 3.0]}}
    service = Service.from_bytes(pack_table(run.model, run.table, bounds).to_bytes())
    answers = service.open().predict(run.table.head(5).to_pandas())
    np.testing.assert_allclose(answers["sales.lower_80"], answers["sales.predicted"] - 2.0)
    np.testing.assert_allclose(answers["sales.upper_80"], answers["sales.predicted"] + 3.0)
    assert not [name for name in answers if name.startswith("grade.lower")]


def test_a_source_of_ones_own_is_published_by_one_line() -> None:
    publish = create_table_publish_pipeline("adult_nine", table="adult.table")
    own = {f"adult_nine.{name}" for name in ("model", "encoder", "metrics", "intervals")}
    assert publish.inputs() == {*own, "adult.table", "params:adult_nine.columns", "params:adult_nine.split"}
    assert publish.all_outputs() == {"adult_nine.service", "adult_nine.evaluation", "adult_nine.service_metrics"}
    assert [node.name for node in publish.nodes if PUBLISH in node.tags] == ["adult_nine.measure_service"]
    assert "adult.table" in create_table_publish_pipeline("adult").inputs()
