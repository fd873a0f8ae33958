"""Documents that the learner can read, errors for those that it cannot, and exact counts of validation documents."""

import logging
from typing import Any

import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.text import nodes
from embedline.pipelines.text.documents import (
    SplitOptions,
    assign_splits,
    check_classes,
    count_shared_texts,
)
from embedline.pipelines.text.options import Classes
from embedline.pipelines.text.tokenizer import TokenOptions

DOCUMENTS = pl.DataFrame(
    {
        "document_id": ["a", "b", "c", "d", "e", "f"],
        "text": ["good", "bad", "bad ", "what", "what", "new"],
        "label": ["pos", "neg", "neg", None, "pos", "neg"],
        "split": ["train", "train", "train", "unlabelled", "test", "test"],
    }
)


def test_good_documents_pass_and_a_class_with_one_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert check_classes(DOCUMENTS, ["neg", "pos"]) is DOCUMENTS
    assert caplog.messages == ["The class 'pos' has a single training document"]
    unlabelled = DOCUMENTS.filter(pl.col("split") == "unlabelled")
    assert check_classes(unlabelled, []) is unlabelled


ONE_OTHER = pl.when(pl.col("document_id") == "e").then(pl.lit("7")).otherwise(pl.lit("neg"))
SPLIT = pl.col("split")


@pytest.mark.parametrize(
    ("documents", "classes", "message"),
    [
        (DOCUMENTS, ["neg"], "^classes .*'neg' alone"),
        (DOCUMENTS, ["neg", "pos", "neg"], "^classes .*'neg' more than once$"),
        (DOCUMENTS, ["Neg", "pos"], "^the document 'b' .*'neg', as 2 more .*; classes lists Neg, pos$"),
        (DOCUMENTS, [], r"^the document 'a' .*'pos', as 4 more .*; classes lists \(none\)$"),
        (DOCUMENTS, ["neg", "pos", "so-so"], "^no training document .*'so-so', which classes lists$"),
        (DOCUMENTS.with_columns(label=ONE_OTHER), ["neg", "pos"], "^the document 'e' .*'7'; classes lists neg, pos$"),
        (DOCUMENTS.filter(SPLIT != "test"), ["neg", "pos"], "^no document is in the split test: .*test_fraction"),
        (DOCUMENTS.filter(SPLIT == "test"), ["neg", "pos"], "^no training document .*'neg', 'pos'"),
        (DOCUMENTS.drop("label"), ["neg", "pos"], r"^the documents have no column 'label'; .*'document_id', 'text'"),
    ],
)
def test_labels_and_classes_that_do_not_fit(documents: pl.DataFrame, classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_classes(documents, classes)


def test_texts_shared_with_the_test_split_are_counted() -> None:
    assert count_shared_texts(DOCUMENTS) == 1  # "what", of an unlabelled and a test document
    more = DOCUMENTS.with_columns(text=pl.when(pl.col("document_id") == "f").then(pl.lit(" bad")).otherwise("text"))
    assert count_shared_texts(more) == 2
    assert count_shared_texts(DOCUMENTS.filter(pl.col("document_id") != "e")) == 0


OWN: dict[str, list[Any]] = {
    "document_id": ["a", "b", "c", "d"],
    "text": ["good", "bad", "", "what"],
    "label": ["1", "0", "1", None],
    "split": ["train", "train", "test", "unlabelled"],
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"text": ["good", None, "", "what"]}, ["'text'", "row 2", "'b'"]),
        ({"text": ["good", 5, "", "what"]}, ["'text'", "row 2"]),
        ({"text": [["good"], ["bad"], [], ["what"]]}, ["'text'"]),
        ({"text": [0.5, 1.5, 2.5, 3.5]}, ["'text'", "Float64"]),
        ({"label": ["1", None, "1", None]}, ["'label'", "row 2", "'b'"]),
        ({"label": ["1", "0", "1", "1"]}, ["'label'", "row 4", "unlabelled"]),
        ({"label": ["1", "0", "2", None]}, ["'2'", "'c'", "classes"]),
        ({"label": [0.5, 0.25, 1.0, None]}, ["'label'", "Float64"]),
        ({"split": ["train", "valid", "test", "unlabelled"]}, ["'split'", "row 2"]),
        ({"split": ["train", None, "test", "unlabelled"]}, ["'split'", "row 2"]),
        ({"document_id": ["a", "b", "a", "d"]}, ["'document_id'", "row 1"]),
        ({"document_id": ["a", None, "c", "d"]}, ["'document_id'", "row 2"]),
        ({"document_id": [1.0, 2.0**60, 3.0, 4.0]}, ["'document_id'", "row 2"]),
        ({"split": ["train", "train", "train", "unlabelled"]}, ["test"]),
    ],
)
def test_documents_that_the_learner_cannot_read(change: dict[str, list[Any]], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        nodes.tokenize(pd.DataFrame({**OWN, **change}), TokenOptions(workers=1), Classes(("0", "1")))
    message = str(caught.value)
    assert message.startswith("the documents") and all(word in message for word in named), message


def test_documents_without_names_or_rows_are_refused() -> None:
    for frame, named in (
        (pd.DataFrame([["a", "b", "c", "d"]]), "header"),
        (pl.DataFrame(OWN).drop("split"), "'split'"),
        (pl.DataFrame(OWN).rename({"split": "part"}), "rename 'part' to 'split'"),
        (pl.DataFrame(OWN).clear(), "no rows"),
        (pd.DataFrame([["a"] * 5], columns=[*OWN, "text"]), "more than once"),
    ):
        with pytest.raises(DataError, match=named):
            nodes.tokenize(frame, TokenOptions(workers=1), Classes(("0", "1")))


def documents(counts: dict[str, int], test: int = 3, unlabelled: int = 2) -> pl.DataFrame:
    labels = [label for label, count in counts.items() for _ in range(count)]
    n = len(labels)
    return pl.DataFrame(
        {
            "document_id": [f"d{number:03}" for number in range(n + test + unlabelled)],
            "label": labels + ["pos"] * test + [None] * unlabelled,
            "split": ["train"] * n + ["test"] * test + ["unlabelled"] * unlabelled,
        },
        schema={"document_id": pl.String, "label": pl.String, "split": pl.String},
    )


def held_out(frame: pl.DataFrame, split: SplitOptions) -> dict[str, int]:
    splits = assign_splits(frame, split)
    return dict(frame.filter(splits == "validation").group_by("label").len().sort("label").rows())


def test_the_same_fraction_of_every_class_and_no_test_row() -> None:
    frame = documents({"neg": 70, "pos": 30})
    splits = assign_splits(frame, SplitOptions(validation=0.1))
    assert held_out(frame, SplitOptions(validation=0.1)) == {"neg": 7, "pos": 3}
    assert splits.name == "split" and splits.dtype == pl.String
    assert splits[-5:].to_list() == ["test"] * 3 + ["unlabelled"] * 2
    assert splits[:100].value_counts().sort("split").rows() == [("train", 90), ("validation", 10)]


@pytest.mark.parametrize(
    ("counts", "fraction", "validation"),
    [
        # 0.25 * (5, 6, 9) = 1.25, 1.5, 2.25: five in all, and the second has the largest remainder.
        ({"a": 5, "b": 6, "c": 9}, 0.25, {"a": 1, "b": 2, "c": 2}),
        ({"a": 2, "b": 98}, 0.1, {"a": 1, "b": 10}),  # one document of a small class in each split
        ({"a": 2, "b": 98}, 0.9, {"a": 1, "b": 88}),
    ],
)
def test_classes_share_the_fraction(counts: dict[str, int], fraction: float, validation: dict[str, int]) -> None:
    assert held_out(documents(counts), SplitOptions(validation=fraction)) == validation


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_rows_and_is_spread() -> None:
    frame = documents({"a": 1000}, test=0, unlabelled=0)

    def drawn(rows: pl.DataFrame, seed: int) -> list[str]:
        splits = assign_splits(rows, SplitOptions(validation=0.2, seed=seed))
        return sorted(rows.filter(splits == "validation")["document_id"])

    chosen = drawn(frame, 3)
    assert drawn(frame.sample(fraction=1.0, shuffle=True, seed=1), 3) == chosen != drawn(frame, 4)
    places = frame["document_id"].is_in(chosen).arg_true()
    assert len(places) == 200
    assert 450 < places.mean() < 550  # 499.5 expected, 17.6 its standard deviation


def test_without_training_documents_the_unlabelled_ones_are_held_out() -> None:
    frame = documents({}, unlabelled=40)
    splits = assign_splits(frame, SplitOptions(validation=0.25))
    assert splits[:3].to_list() == ["test"] * 3
    assert splits[3:].value_counts().sort("split").rows() == [("unlabelled", 30), ("validation", 10)]


@pytest.mark.parametrize(
    ("frame", "fraction", "message"),
    [
        (documents({"a": 5, "b": 1}), 0.1, "class 'b' has 1 training document"),
        (documents({"a": 2, "b": 2}), 0.1, "split.validation 0.1 .* none for validation"),
        (documents({"a": 2, "b": 2}), 0.9, "split.validation 0.9 .* none for training"),
        (documents({}, unlabelled=0), 0.1, "no document is in the split 'train' or 'unlabelled'"),
        (documents({}, unlabelled=1), 0.1, "single document .* 'unlabelled'"),
    ],
)
def test_documents_that_cannot_be_split_are_named(frame: pl.DataFrame, fraction: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign_splits(frame, SplitOptions(validation=fraction))
