"""Free text as inputs: topics by hand and against scikit-learn, on both engines, in training and in a service."""

import math
from datetime import date
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
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.importance import input_variables
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, ReportOptions, TableTraining
from embedline.pipelines.tabular.texts import TextTopics, add_topics, fit_texts

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
WINES = ["Red wine", "red, wine!", None, "dry wine"]
SPLIT = Split(kind="random", seed=1)


def _frame(engine: str, values: dict[str, Any]) -> nw.DataFrame[Any]:
    made = pl.DataFrame(values) if engine == "polars" else pd.DataFrame(values)
    return nw.from_native(made, eager_only=True)


@ENGINES
def test_terms_weights_and_likeness_by_hand(engine: str) -> None:
    table = _frame(engine, {"note": WINES})
    (topics,) = fit_texts(table, ["note"], 16)
    assert topics.terms == ("red", "red wine", "wine")  # in two texts at least
    of_two, of_three = math.log(5 / 3) + 1, math.log(5 / 4) + 1
    assert topics.idf == pytest.approx((of_two, of_two, of_three))
    assert topics.continuous == ("note.topic1", "note.topic2")  # no third one: the texts are of two kinds
    found = add_topics(table, [topics])
    assert found.columns == ["note", *topics.continuous]
    red, again, missing, dry = found.select(topics.continuous).to_numpy()
    assert red == pytest.approx(again) and missing.tolist() == [0.0, 0.0]
    assert red @ red == pytest.approx(1.0, abs=1e-5)
    likeness = of_three / math.sqrt(2 * of_two**2 + of_three**2)  # they share the wine
    assert red @ dry == pytest.approx(likeness, abs=1e-5)


def test_topics_are_those_of_the_decomposition() -> None:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["tea", "salt", "rice", "corn", "oil"], 6)) for _ in range(200)]
    (topics,) = fit_texts(_frame("polars", {"note": texts}), ["note"], 3)
    expected = TruncatedSVD(3, random_state=0).fit_transform(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform(texts)
    )
    found = topics.values(texts)
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-4)  # the signs of the topics are free


def test_a_text_without_a_known_word_is_an_empty_one() -> None:
    (topics,) = fit_texts(_frame("polars", {"note": WINES}), ["note"], 16)
    assert topics.values(["beer", "", "RED"]).any(axis=1).tolist() == [False, False, True]
    again = TextTopics.model_validate_json(topics.model_dump_json())
    assert again == topics and (again.values(["red"]) == topics.values(["red"])).all()


def test_few_rows_without_a_common_word_have_topics_nevertheless() -> None:
    (topics,) = fit_texts(_frame("polars", {"note": ["tea", "salt"]}), ["note"], 16)
    assert topics.terms == ("salt", "tea")
    one, other = topics.values(["tea", "salt"])
    assert one @ other == pytest.approx(0.0, abs=1e-6) and one @ one == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("texts", [["tea"], ["tea", "tea", None]])
def test_a_single_row_and_a_single_term_have_a_topic(texts: list[str | None]) -> None:
    (topics,) = fit_texts(_frame("polars", {"note": texts}), ["note"], 16)
    assert topics.terms == ("tea",) and abs(topics.values(["tea", "salt"])[:, 0]).tolist() == [1.0, 0.0]


def test_a_large_vocabulary_is_cut_to_the_most_frequent_terms() -> None:
    texts = [f"common w{k} v{k % 700}" for k in range(1500)] * 2
    (topics,) = fit_texts(_frame("polars", {"note": texts}), ["note"], 2)
    assert len(topics.terms) == 2000 and "common" in topics.terms and len(topics.topics) == 2


@ENGINES
@pytest.mark.parametrize("values", [["", None, " "], ["!", "?", "-"]])
def test_texts_without_a_word_are_refused(engine: str, values: list[str | None]) -> None:
    table = _frame(engine, {"note": values, "size": [1.0, 2.0, 3.0], "price": [1.0, 2.0, 3.0]})
    with pytest.raises(DataError, match=r"'note' \(columns\.text\) holds no word on the 3 training rows"):
        fit_encoder(table, Columns(text=("note",), continuous=("size",), target="price"), EncodingOptions())


@ENGINES
def test_a_column_that_holds_no_text_is_named(engine: str) -> None:
    table = _frame(engine, {"note": [1, 2, 3], "price": [1.0, 2.0, 3.0]})
    columns = Columns(text=("note",), target="price")
    with pytest.raises(DataError, match=r"^the table: column 'note' \(columns\.text\) has the type Int64"):
        nodes.fit_encoder(table.to_native(), columns, Split(kind="none"), EncodingOptions())
    encoder = fit_encoder(_frame(engine, {"note": WINES, "price": [1.0, 2.0, 3.0, 4.0]}), columns, EncodingOptions())
    with pytest.raises(DataError, match=r"column 'note' \(columns\.text\) has the type Int64"):
        encode(table, encoder)
    with pytest.raises(DataError, match=r"no column 'note', which columns\.text names"):
        encode(_frame(engine, {"price": [1.0]}), encoder)


@ENGINES
def test_topics_are_scaled_and_the_size_is_an_option(engine: str) -> None:
    texts = ["red wine", "dry wine", "red tea", "dry tea", None, "red wine"]
    table = _frame(engine, {"note": texts, "price": [float(k) for k in range(6)]})
    columns = Columns(text=("note",), target="price")
    encoder = fit_encoder(table, columns, EncodingOptions(text_size=2))
    assert encoder.inputs == ("note",) and encoder.flags == ()
    assert encoder.value_columns == ("note.topic1", "note.topic2")
    encoded = encode(table, Encoder.model_validate(encoder.model_dump(mode="json")))
    values = encoded.select("value:note.topic1", "value:note.topic2").to_numpy()
    assert values.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert values.std(axis=0) == pytest.approx([1.0, 1.0], abs=1e-5)
    nothing = encode(_frame(engine, {"note": [None, None]}), encoder)  # a file of rows without any text
    assert nothing["value:note.topic1"].to_list() == pytest.approx([values[4, 0]] * 2)


def _offers(n_rows: int = 600) -> pl.DataFrame:
    """Prices that a word decides and nothing else but the size, one text in ten missing."""
    random = np.random.default_rng(0)
    old, size = random.random(n_rows) < 0.5, random.normal(size=n_rows)
    fillers = random.choice(["table", "chair", "lamp", "shelf", "bed", "desk"], (n_rows, 3))
    notes = [
        f"{'Scratched' if o else 'New'} {' '.join(words)} {k}"
        for k, (o, words) in enumerate(zip(old, fillers, strict=True))
    ]
    missing = random.random(n_rows) < 0.1
    return pl.DataFrame(
        {
            "note": [None if gone else note for gone, note in zip(missing, notes, strict=True)],
            "size": size,
            "price": 10
            + 5 * np.where(missing, 0.0, np.where(old, -1.0, 1.0))
            + size
            + 0.1 * random.normal(size=n_rows),
        }
    )


@ENGINES
def test_a_network_learns_from_words_and_a_service_answers_rows_with_texts(engine: str) -> None:
    columns = Columns(continuous=("size",), text=("note",), target="price")
    table: Any = _offers() if engine == "polars" else _offers().to_pandas()
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions())
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    training = TableTraining(epochs=40, batch_size=32, lr=0.01, device="cpu", precision="fp32")
    model, _ = nodes.train(encoded, encoder, NetworkOptions(layers=(32,)), training)
    importance = nodes.measure_importance(pl.DataFrame(encoded), model, ReportOptions())
    assert importance["variable"].to_list() == ["note", "size"]
    held_out = hold_out_table(table, columns, SPLIT, encoder)
    assert held_out.columns == ["size", "note", "actual"]
    service = pack_table(model, table)
    assert {column.name: (column.type, column.required) for column in service.columns} == {
        "size": ("double", True),
        "note": ("string", True),
    }
    found = service.open().predict(held_out.drop("actual").to_pandas())["predicted"].to_numpy()
    assert np.sqrt(np.mean((found - held_out["actual"].to_numpy()) ** 2)) < 1.5  # of a deviation of 5
    with pytest.raises(DataError, match=r"'note', row 1: 3 is not text"):
        service.open().predict(pd.DataFrame({"size": [0.0], "note": [3]}))


@pytest.mark.parametrize("role", ["text", "dates"])
def test_a_name_that_a_text_or_a_date_makes_is_taken(role: str) -> None:
    name = {"text": "x.topic1", "dates": "x.days"}[role]
    values = {"text": WINES, "dates": [date(2020, 1, day) for day in range(1, 5)]}[role]
    table = _frame("polars", {"x": values, name: [1.0, 2.0, 3.0, 4.0], "price": [1.0, 2.0, 3.0, 4.0]})
    columns = Columns.model_validate({role: ["x"], "continuous": [name], "target": "price"})
    with pytest.raises(DataError, match=rf"'x' becomes variables.*'{name}'.*rename"):
        fit_encoder(table, columns, EncodingOptions())


def test_topics_of_a_text_are_shuffled_together() -> None:
    encoder = fit_encoder(
        nw.from_native(_offers(), eager_only=True),
        Columns(continuous=("size",), text=("note",), target="price"),
        EncodingOptions(text_size=5),
    )
    by_name = {variable.name: variable for variable in input_variables(encoder)}
    assert set(by_name) == {"note", "size"}
    assert len(by_name["note"].values) == 5 and by_name["note"].codes == ()
