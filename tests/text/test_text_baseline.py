"""The baseline on documents with known classes, compared with scikit-learn's own pipeline."""

import logging
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from embedline.errors import DataError
from embedline.pipelines.text.baseline import BaselineOptions, train_baseline

CLASSES = ["neg", "pos"]
LOOSE = BaselineOptions(min_df=1)
ROWS = [
    *(("a", "a good film", "pos", "train"), ("b", "good, good acting", "pos", "train")),
    *(("c", "a bad film", "neg", "train"), ("d", "bad and dull acting", "neg", "train")),
    *(("e", "very good", "pos", "test"), ("f", "quite bad", "neg", "test")),
    *(("g", "bad bad bad", "pos", "validation"), ("h", "no label here", None, "unlabelled")),
]
DOCUMENTS = pl.DataFrame(ROWS, schema=["document_id", "text", "label", "split"], orient="row")


def changed(name: str, value: str | None, **where: str) -> pl.DataFrame:
    """The documents with one value in the column ``name`` of the rows that ``where`` selects."""
    return DOCUMENTS.with_columns(pl.when(**where).then(pl.lit(value)).otherwise(name).alias(name))


def _train(
    documents: pl.DataFrame = DOCUMENTS, classes: list[str] = CLASSES, options: BaselineOptions = LOOSE
) -> tuple[pl.DataFrame, dict[str, Any]]:
    return train_baseline(documents, documents["split"], classes, options)


def test_known_documents_are_classified() -> None:
    predictions, costs = _train()
    assert predictions.columns == ["document_id", "label", "predicted", "confidence", "p_neg", "p_pos"]
    assert predictions.select("document_id", "label", "predicted").rows() == [("e", "pos", "pos"), ("f", "neg", "neg")]
    assert predictions.schema["p_neg"] == pl.Float64
    assert (predictions["p_neg"] + predictions["p_pos"]).to_list() == pytest.approx([1.0, 1.0])
    assert predictions["confidence"].to_list() == [predictions["p_pos"][0], predictions["p_neg"][1]]
    # Words a, good, film, acting, bad, and, dull; pairs: 2 + 2 + 2 + 3, of which none is there twice.
    assert costs["features"] == 7 + 9
    assert costs["rows"] == 4
    assert costs["seconds"] > 0
    assert costs["iterations"] >= 1


def test_probabilities_are_those_of_scikit_learn() -> None:
    train, test = DOCUMENTS.filter(split="train"), DOCUMENTS.filter(split="test")
    vectorizer = TfidfVectorizer(ngram_range=(1, 3), min_df=2, max_features=4)
    model = LogisticRegression(C=3.0).fit(vectorizer.fit_transform(train["text"]), train["label"])
    expected = model.predict_proba(vectorizer.transform(test["text"]))
    options = BaselineOptions(ngrams=(1, 3), min_df=2, max_features=4, c=3.0, sublinear=False, marks=False)
    predictions, _ = _train(options=options)
    np.testing.assert_allclose(predictions.select("p_neg", "p_pos").to_numpy(), expected, rtol=1e-3)


def test_only_the_training_rows_are_learned_from() -> None:
    predictions, _ = _train()
    validation = pl.col("split") == "validation"
    elsewhere = changed("label", "neg", split="validation").with_columns(
        text=pl.when(validation).then(pl.lit("good good good")).otherwise("text")
    )
    assert _train(elsewhere)[0].equals(predictions)
    assert _train(changed("label", "pos", split="test"))[0].drop("label").equals(predictions.drop("label"))
    splits = pl.Series(["train", "test", "train", "test", "train", "train", "validation", "unlabelled"])
    others, costs = train_baseline(DOCUMENTS, splits, CLASSES, LOOSE)  # these decide, not the column
    assert others["document_id"].to_list() == ["b", "d"]
    assert costs["rows"] == 4
    with pytest.raises(DataError, match="7 splits for 8 documents"):
        train_baseline(DOCUMENTS, splits[:7], CLASSES, LOOSE)


def test_line_breaks_and_entities_are_no_words() -> None:
    text = pl.col("text")
    for marked in (text.str.replace_all(" ", "<br /><br />"), pl.lit("&quot;") + text + pl.lit("&amp;")):
        assert _train(DOCUMENTS.with_columns(text=marked))[0].equals(_train()[0])


def test_marks_are_features_if_asked_for() -> None:
    texts = [*["it is so!"] * 2, *["it is so?"] * 2, "so!", "so?", "so", "so"]
    documents = DOCUMENTS.with_columns(text=pl.Series(texts))
    assert _train(documents)[0]["predicted"].to_list() == ["pos", "neg"]
    without, _ = _train(documents, options=BaselineOptions(min_df=1, marks=False))
    assert without["p_pos"].to_list() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_classes_of_one_training_document_or_none_and_an_empty_document() -> None:
    classes = ["neg", "mixed", "pos"]
    predictions, _ = _train(classes=classes)
    assert predictions["p_mixed"].to_list() == [0.0, 0.0]
    assert predictions["predicted"].to_list() == ["pos", "neg"]
    assert (predictions["p_neg"] + predictions["p_pos"]).to_list() == pytest.approx([1.0, 1.0])
    documents = changed("label", "mixed", document_id="d").with_columns(
        text=pl.when(document_id="f").then(pl.lit("")).otherwise("text")
    )
    predictions, _ = _train(documents, classes)
    sums = predictions.select(pl.sum_horizontal("p_neg", "p_mixed", "p_pos")).to_series()
    assert sums.to_list() == pytest.approx([1.0, 1.0])
    # Nothing is known of the empty one but how often the classes occur: pos twice, the others once.
    assert predictions.filter(document_id="f")["predicted"].to_list() == ["pos"]


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (DOCUMENTS.filter(pl.col("label") == "pos"), LOOSE, "two classes .* only the label 'pos'"),
        (DOCUMENTS.filter(split="test"), LOOSE, "two classes .* are none"),
        (DOCUMENTS.filter(split="train"), LOOSE, "split 'test' has no documents"),
        (changed("label", "so-so", document_id="f"), LOOSE, "document 'f' .* 'so-so'"),
        (changed("label", None, document_id="b"), LOOSE, "document 'b' has the label None"),
        (DOCUMENTS, BaselineOptions(min_df=5), "4 training documents .* min_df = 5"),
        (DOCUMENTS.with_columns(text=pl.lit("…")), LOOSE, "min_df = 1"),
    ],
)
def test_what_cannot_be_learned_is_said(documents: pl.DataFrame, options: BaselineOptions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _train(documents, options=options)


def test_a_fit_that_was_cut_off_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, costs = _train(options=BaselineOptions(min_df=1, max_iterations=1))
    assert costs["iterations"] == 1
    assert "max_iterations = 1" in caplog.text


@pytest.mark.parametrize("options", [{"ngrams": (2, 1)}, {"ngrams": (0, 1)}, {"mindf": 2}])
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        BaselineOptions.model_validate(options)
