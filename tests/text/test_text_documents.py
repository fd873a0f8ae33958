"""Documents that the learner can read, and the errors for those that it cannot."""

import logging
from typing import Any

import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.text import nodes
from embedline.pipelines.text.documents import check_classes, count_shared_texts, read_documents
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


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["neg"], "^classes lists 'neg' alone; a classifier needs two"),
        (["neg", "pos", "neg"], "^classes lists 'neg' more than once$"),
        (["Neg", "pos"], "^the document 'b' has the label 'neg', as 2 more of such labels; classes lists Neg, pos$"),
        ([], "^the document 'a' has the label 'pos', as 4 more of such labels; classes lists \\(none\\)$"),
        (["neg", "pos", "so-so"], "^no training document has the label 'so-so', which classes lists$"),
    ],
)
def test_labels_and_classes_that_do_not_fit(classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_classes(DOCUMENTS, classes)


def test_a_lone_stray_label_and_missing_splits() -> None:
    stray = DOCUMENTS.with_columns(label=pl.col("label").replace({"pos": "neg"})).with_columns(
        label=pl.when(pl.col("document_id") == "e").then(pl.lit("7")).otherwise("label")
    )
    with pytest.raises(DataError, match=r"^the document 'e' has the label '7'; classes lists neg, pos$"):
        check_classes(stray, ["neg", "pos"])
    with pytest.raises(DataError, match=r"^no document is in the split test: name it in splits, or hold some out with"):
        check_classes(DOCUMENTS.filter(pl.col("split") != "test"), ["neg", "pos"])
    with pytest.raises(DataError, match=r"^no training document has the label 'neg', 'pos', which classes lists$"):
        check_classes(DOCUMENTS.filter(pl.col("split") == "test"), ["neg", "pos"])
    with pytest.raises(DataError, match=r"^the documents have no column 'label'; they have \['document_id', 'text'"):
        check_classes(DOCUMENTS.drop("label"), ["neg", "pos"])


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
ROWS = list(zip(*OWN.values(), strict=True))


@pytest.mark.parametrize(
    "frame",
    [
        pl.LazyFrame(OWN),
        pd.DataFrame({**OWN, "note": [1, "x", b"y", None]}).set_index("document_id"),
        pl.DataFrame(OWN).with_columns(pl.col("split").cast(pl.Categorical), pl.col("label").cast(pl.Int8)),
        pd.DataFrame({**OWN, "label": [1, 0, 1, None]}),  # pandas has floats for whole numbers with a gap
        pl.DataFrame(OWN).select(*reversed(OWN)).to_arrow(),
    ],
)
def test_documents_of_any_engine_become_text(frame: Any) -> None:
    documents = read_documents(frame, ["0", "1"])
    assert documents.rows() == ROWS and set(documents.dtypes) == {pl.String}


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
            nodes.tokenize(frame, TokenOptions(workers=1))
