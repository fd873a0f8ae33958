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
DOCUMENTS = pl.DataFrame(
    {
        "document_id": ["a", "b", "c", "d", "e", "f", "g", "h"],
        "text": [
            "a good film",
            "good, good acting",
            "a bad film",
            "bad and dull acting",
            "very good",
            "quite bad",
            "bad bad bad",
            "no label here",
        ],
        "label": ["pos", "pos", "neg", "neg", "pos", "neg", "pos", None],
        "split": ["train", "train", "train", "train", "test", "test", "validation", "unlabelled"],
    }
)


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
    elsewhere = DOCUMENTS.with_columns(
        text=pl.when(split="validation").then(pl.lit("good good good")).otherwise("text"),
        label=pl.when(split="validation").then(pl.lit("neg")).otherwise("label"),
    )
    assert _train(elsewhere)[0].equals(predictions)
    flipped = DOCUMENTS.with_columns(label=pl.when(split="test").then(pl.lit("pos")).otherwise("label"))
    assert _train(flipped)[0].drop("label").equals(predictions.drop("label"))


def test_the_parts_decide_not_the_column() -> None:
    splits = pl.Series(["train", "test", "train", "test", "train", "train", "validation", "unlabelled"])
    predictions, costs = train_baseline(DOCUMENTS, splits, CLASSES, LOOSE)
    assert predictions["document_id"].to_list() == ["b", "d"]
    assert costs["rows"] == 4
    with pytest.raises(DataError, match="7 splits for 8 documents"):
        train_baseline(DOCUMENTS, splits[:7], CLASSES, LOOSE)


def test_line_breaks_and_entities_are_no_words() -> None:
    marked = DOCUMENTS.with_columns(text=pl.col("text").str.replace_all(" ", "<br /><br />"))
    assert _train(marked)[0].equals(_train()[0])
    escaped = DOCUMENTS.with_columns(text=pl.lit("&quot;") + pl.col("text") + pl.lit("&amp;"))
    assert _train(escaped)[0].equals(_train()[0])


def test_marks_are_features_if_asked_for() -> None:
    documents = DOCUMENTS.with_columns(
        text=pl.Series(["it is so!", "it is so!", "it is so?", "it is so?", "so!", "so?", "so", "so"])
    )
    assert _train(documents)[0]["predicted"].to_list() == ["pos", "neg"]
    without, _ = _train(documents, options=BaselineOptions(min_df=1, marks=False))
    assert without["p_pos"].to_list() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_three_classes_one_of_which_training_lacks() -> None:
    predictions, _ = _train(classes=["neg", "mixed", "pos"])
    assert predictions["p_mixed"].to_list() == [0.0, 0.0]
    assert predictions["predicted"].to_list() == ["pos", "neg"]
    assert (predictions["p_neg"] + predictions["p_pos"]).to_list() == pytest.approx([1.0, 1.0])


def test_a_class_of_one_document_and_an_empty_document_are_no_trouble() -> None:
    documents = DOCUMENTS.with_columns(
        label=pl.when(document_id="d").then(pl.lit("mixed")).otherwise("label"),
        text=pl.when(document_id="f").then(pl.lit("")).otherwise("text"),
    )
    predictions, _ = _train(documents, classes=["neg", "mixed", "pos"])
    assert predictions.select(pl.sum_horizontal("p_neg", "p_mixed", "p_pos")).to_series().to_list() == pytest.approx(
        [1.0, 1.0]
    )
    # Nothing is known of the empty one but how often the classes occur: pos twice, the others once.
    assert predictions.filter(document_id="f")["predicted"].to_list() == ["pos"]


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        (DOCUMENTS.filter(pl.col("label") == "pos"), LOOSE, "two classes at least, these carry only the label 'pos'"),
        (DOCUMENTS.filter(split="test"), LOOSE, "two classes at least, these are none"),
        (DOCUMENTS.filter(split="train"), LOOSE, "split 'test' has no documents"),
        (
            DOCUMENTS.with_columns(label=pl.when(document_id="f").then(pl.lit("so-so")).otherwise("label")),
            LOOSE,
            r"document 'f' has the label 'so-so', which is none of the classes \['neg', 'pos'\]",
        ),
        (
            DOCUMENTS.with_columns(label=pl.when(document_id="b").then(None).otherwise("label")),
            LOOSE,
            "document 'b' has the label None",
        ),
        (DOCUMENTS, BaselineOptions(min_df=5), "4 training documents have no n-gram that is in min_df = 5"),
        (DOCUMENTS.with_columns(text=pl.lit("…")), LOOSE, "no n-gram that is in min_df = 1"),
    ],
)
def test_what_cannot_be_learned_is_said(documents: pl.DataFrame, options: BaselineOptions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _train(documents, options=options)


def test_a_fit_that_was_cut_off_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, costs = _train(options=BaselineOptions(min_df=1, max_iterations=1))
    assert costs["iterations"] == 1
    assert "stopped after max_iterations = 1, before it converged" in caplog.text


@pytest.mark.parametrize("ngrams", [(2, 1), (0, 1)])
def test_ngrams_must_rise(ngrams: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="1 <= shortest <= longest"):
        BaselineOptions(ngrams=ngrams)


def test_a_mistyped_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="mindf"):
        BaselineOptions.model_validate({"mindf": 2})
