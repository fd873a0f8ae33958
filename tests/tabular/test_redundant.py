"""Variables that tell nothing: ids are refused, constant and duplicate ones left out, up to a service."""

import json
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.publish.nodes import pack_table
from embedline.pipelines.tabular import nodes, plot_nodes
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, ReportOptions, TableTraining
from embedline.pipelines.tabular.redundant import LeftOut, find_redundant

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
N = 60
ALL, NONE = Split(kind="none"), EncodingOptions()
TRAINING = TableTraining(epochs=1, batch_size=20, lr=0.01, device="cpu", precision="fp32")
RANDOM = np.random.default_rng(0)
SHOPS, HEAT = [f"s{k % 4}" for k in range(N)], RANDOM.normal(size=N).tolist()


def _make(engine: str, values: dict[str, Any]) -> Any:
    return pl.DataFrame(values) if engine == "polars" else pd.DataFrame(values)


def _open(engine: str, values: dict[str, Any]) -> nw.DataFrame[Any]:
    return nw.from_native(_make(engine, values), eager_only=True)


@ENGINES
def test_constant_and_duplicate_variables_are_found(engine: str) -> None:
    gap = [None, *HEAT[1:]]
    days = pd.date_range("2020-01-01", periods=N).to_list()
    values: dict[str, Any] = {
        "shop": SHOPS,
        "branch": SHOPS,  # a copy
        "country": ["AT"] * N,
        "open": [True] * (N - 1) + [None],  # a gap tells something
        "heat": HEAT,
        "warmth": HEAT,
        "gap": gap,
        "hole": gap,
        "almost": [*HEAT[:-1], 9.0],
        "year": [2020] * N,
        "Year": [2020.0] * N,
        "shops": [k % 4 for k in range(N)],
        "sold": days,
        "paid": days,
        "note": SHOPS,  # of another role
    }
    columns = Columns(
        categorical=("shop", "branch", "country", "open", "shops"),
        continuous=("heat", "warmth", "gap", "hole", "almost", "year", "Year"),
        dates=("sold", "paid"),
        text=("note",),
        target="price",
    )
    found = find_redundant(_open(engine, values), columns)
    assert found.constant == ("country", "year", "Year")
    assert found.duplicates == {"branch": "shop", "warmth": "heat", "hole": "gap", "paid": "sold"}
    assert found.columns(columns).variables == ("shop", "open", "shops", "heat", "gap", "almost", "sold", "note")


def test_numbers_that_floats_cannot_tell_apart_are_not_constant() -> None:
    big = 2**60
    values = _open("pandas", {"x": pd.Series([big, big + 1], dtype="Int64"), "y": pd.Series([big + 1, big])})
    assert find_redundant(values, Columns(categorical=("x", "y"), target="t")) == LeftOut()


def test_nan_is_a_missing_value_of_a_duplicate() -> None:
    values = _open("polars", {"x": [1.0, float("nan"), 2.0], "y": [1.0, None, 2.0], "z": [1.0, 3.0, 2.0]})
    assert find_redundant(values, Columns(continuous=("x", "y", "z"), target="t")).duplicates == {"y": "x"}


def test_groups_of_target_means_lose_constants_and_name_the_original() -> None:
    left_out = LeftOut(constant=("year",), duplicates={"branch": "shop"})
    groups = [("year",), ("shop", "year"), ("branch",), ("shop", "branch", "kind")]
    assert left_out.groups(groups) == (("shop",), ("shop", "kind"))


@ENGINES
def test_a_table_of_constants_is_refused(engine: str) -> None:
    table = _make(engine, {"shop": ["a"] * N, "year": [1] * N, "price": HEAT})
    with pytest.raises(DataError, match=r"every variable .* one value in all 60 training row.*'shop', 'year'"):
        nodes.fit_encoder(table, Columns(categorical=("shop",), continuous=("year",), target="price"), ALL, NONE)


@ENGINES
def test_what_is_left_out_is_named_once_and_never_asked_for(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    columns = Columns(
        categorical=("shop", "branch", "country"),
        continuous=("heat", "warmth", "year"),
        target="price",
        id=("country",),
    )
    encoding = EncodingOptions(
        target_means=(("branch", "country"),),
        fill={"year": 1.0, "warmth": 0.0},
        limits={"year": (0.0, 1.0)},
        scalings={"warmth": "quantile"},
    )
    values = {"shop": SHOPS, "branch": SHOPS, "country": ["AT"] * N, "heat": HEAT, "warmth": HEAT, "year": [7] * N}
    table = _make(engine, {**values, "price": [k + heat for k, heat in enumerate(HEAT)]})
    split = Split(kind="random", seed=2)
    with caplog.at_level("WARNING"):
        encoder = nodes.fit_encoder(table, columns, split, encoding)
    said = [record.getMessage() for record in caplog.records if "Left out" in record.getMessage()]
    assert len(said) == 2 and "'country', 'year'" in said[0]
    assert "'branch' (as 'shop'), 'warmth' (as 'heat')" in said[1]
    fitted = Encoder.model_validate(json.loads(json.dumps(encoder)))
    assert fitted.inputs == ("shop", "heat")
    assert fitted.value_columns == ("heat", "mean(shop)")
    encoded = nodes.encode(table, encoder, columns, split)
    network = NetworkOptions(layers=(4,), embedding_sizes={"branch": 3, "shop": 2})
    model, _ = nodes.train(encoded, encoder, network, TRAINING)
    report = ReportOptions(embeddings=("shop", "branch", "country"), error_by=("branch",), series_by="country")
    predicted = nodes.predict(table, encoded, model, pl.DataFrame(), pl.DataFrame(), columns, split, report)
    assert {"country", "branch"} <= set(predicted.columns)
    figure = plot_nodes.plot_embeddings(nodes.extract_embeddings(model), encoder, report)
    assert [title.text for title in figure.layout.annotations] == ["shop"]
    with pytest.raises(DataError, match=r"report\.embeddings names 'shoop'"):
        plot_nodes.plot_embeddings(nodes.extract_embeddings(model), encoder, ReportOptions(embeddings=("shoop",)))
    with pytest.raises(DataError, match=r"embedding_sizes names \['shoop'\]"):
        nodes.train(encoded, encoder, NetworkOptions(layers=(4,), embedding_sizes={"shoop": 3}), TRAINING)
    service = pack_table(model, table)
    assert {column.name: column.required for column in service.columns} == {
        "shop": True,
        "heat": True,
        "country": False,  # a key, that comes back where it is given
    }
    answers = service.open().predict(pd.DataFrame({"shop": ["s1"], "heat": [0.5]}))
    assert np.isfinite(answers["predicted"]).all()


@ENGINES
def test_an_id_among_the_categories_is_refused_with_its_counts(engine: str) -> None:
    ids = [f"customer {min(k, N - 3)}" for k in range(N)]  # 58 different ones in 60 rows
    columns = Columns(categorical=("customer",), continuous=("heat",), target="price")
    table = _make(engine, {"customer": ids, "heat": HEAT, "price": HEAT})
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(table, columns, ALL, NONE)
    message = str(caught.value)
    named = [
        "the table: column 'customer' (columns.categorical)",
        "58 different values in 60",
        "columns.id",
        "columns.text",
    ]
    assert [text for text in named if text not in message] == []


@ENGINES
@pytest.mark.parametrize(
    ("rows", "distinct"),
    [(49, 49), (60, 56)],  # few rows may differ by chance; 56 of 60 are less than 95 %
)
def test_categories_of_many_values_are_taken(engine: str, rows: int, distinct: int) -> None:
    table = _open(engine, {"x": [min(k, distinct - 1) for k in range(rows)], "y": HEAT[:rows]})
    assert fit_encoder(table, Columns(categorical=("x",), target="y"), NONE).categorical["x"].size == distinct + 1


@ENGINES
def test_missing_values_do_not_hide_an_id(engine: str) -> None:
    table = _open(engine, {"x": [None if k < 5 else k for k in range(N)], "y": HEAT})
    with pytest.raises(DataError, match=r"'x'.*55 different values in 55 training rows"):
        fit_encoder(table, Columns(categorical=("x",), target="y"), NONE)


@ENGINES
def test_integers_of_few_values_are_suggested_as_categories_once(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    values = {
        "rooms": [k % 4 for k in range(N)],
        "flag": [k % 2 for k in range(N)],  # two values are the same as a number and as a category
        "rare": [5 if k == 0 else k % 3 for k in range(N)],  # one of them in one row
        "age": [k % 11 for k in range(N)],
        "half": [0.5 * (k % 4) for k in range(N)],
        "level": [k % 5 for k in range(N)],
        "price": HEAT,
    }
    columns = Columns(categorical=("level",), continuous=("rooms", "flag", "rare", "age", "half"), target="price")
    table = _make(engine, values)
    with caplog.at_level("INFO"):
        encoder = nodes.fit_encoder(table, columns, ALL, NONE)
        nodes.encode(table, encoder, columns, ALL)
    (said,) = [record.getMessage() for record in caplog.records if "codes" in record.getMessage()]
    assert "'rooms'" in said and "columns.categorical" in said
    assert all(f"'{name}'" not in said for name in ("flag", "rare", "age", "half", "level"))


@ENGINES
def test_a_column_that_varies_later_only_is_left_out(engine: str) -> None:
    values = {"x": [1] * N, "heat": HEAT, "y": HEAT}
    encoder = fit_encoder(_open(engine, values), Columns(categorical=("x",), continuous=("heat",), target="y"), NONE)
    assert encode(_open(engine, {"x": [1, 2], "heat": [0.0, 0.0]}), encoder).columns == ["value:heat"]
