"""What the learner asks of documents."""

import logging

import polars as pl
import pytest

from embedline.errors import DataError
from embedline.text.documents import check_classes, count_shared_texts

DOCUMENTS = pl.DataFrame(
    {
        "document_id": ["a", "b", "c", "d", "e", "f"],
        "text": ["good", "bad", "bad ", "what", "what", "new"],
        "label": ["pos", "neg", "neg", None, "pos", "neg"],
        "part": ["train", "train", "train", "unlabelled", "test", "test"],
    }
)


def test_good_documents_pass_and_a_class_with_one_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert check_classes(DOCUMENTS, ["neg", "pos"]) is DOCUMENTS
    assert caplog.messages == ["The class 'pos' has a single training document"]
    unlabelled = DOCUMENTS.filter(pl.col("part") == "unlabelled")
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


def test_a_lone_stray_label_and_missing_parts() -> None:
    stray = DOCUMENTS.with_columns(label=pl.col("label").replace({"pos": "neg"})).with_columns(
        label=pl.when(pl.col("document_id") == "e").then(pl.lit("7")).otherwise("label")
    )
    with pytest.raises(DataError, match=r"^the document 'e' has the label '7'; classes lists neg, pos$"):
        check_classes(stray, ["neg", "pos"])
    with pytest.raises(DataError, match=r"^no document is in the part test: name it in parts, or hold some out with"):
        check_classes(DOCUMENTS.filter(pl.col("part") != "test"), ["neg", "pos"])
    with pytest.raises(DataError, match=r"^no training document has the label 'neg', 'pos', which classes lists$"):
        check_classes(DOCUMENTS.filter(pl.col("part") == "test"), ["neg", "pos"])
    with pytest.raises(DataError, match=r"^the documents have no column 'label'; they have \['document_id', 'text'"):
        check_classes(DOCUMENTS.drop("label"), ["neg", "pos"])


def test_texts_shared_with_the_test_part_are_counted() -> None:
    assert count_shared_texts(DOCUMENTS) == 1  # "what", of an unlabelled and a test document
    more = DOCUMENTS.with_columns(text=pl.when(pl.col("document_id") == "f").then(pl.lit(" bad")).otherwise("text"))
    assert count_shared_texts(more) == 2
    assert count_shared_texts(DOCUMENTS.filter(pl.col("document_id") != "e")) == 0
