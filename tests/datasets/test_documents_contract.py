"""The contract of documents, on both engines, with the message that the user reads."""

from typing import Any

import pandas as pd
import polars as pl
import pytest

from embedline.datasets.contracts import DocumentsContract
from embedline.errors import DataError

ENGINES = pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
GOOD: dict[str, list[Any]] = {
    "document_id": ["c", "a", "b"],
    "text": ["good", "", "what"],
    "label": ["pos", "neg", None],
    "split": ["train", "test", "unlabelled"],
    "stars": [9, 1, None],
}


@ENGINES
def test_good_documents_come_back_as_they_are(make: Any) -> None:
    frame = make(GOOD)
    assert DocumentsContract("d").validate(frame) is frame
    bare = make({**GOOD, "label": [None] * 3, "split": ["unlabelled"] * 3})
    assert DocumentsContract("d").validate(bare) is bare


@ENGINES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"document_id": ["a", "b", "a"]}, r"^imdb\.documents: \{'document_id': 'a'\} occurs more than once$"),
        ({"document_id": [1, 2, 3]}, r"^imdb\.documents: column 'document_id' has the type Int64, not String$"),
        ({"text": ["a", None, "b"]}, r"^imdb\.documents: column 'text' has 1 missing values$"),
        ({"split": ["train", None, "test"]}, r"^imdb\.documents: column 'split' has 1 missing values$"),
        ({"label": [1, 0, 1]}, r"^imdb\.documents: column 'label' has the type Int64, not String$"),
        (
            {"split": ["train", "valid", "unlabelled"]},
            r"^imdb\.documents: \{'document_id': 'a', .*\} has a split that is none of train, test, unlabelled$",
        ),
        (
            {"label": [None, "neg", None]},
            r"^imdb\.documents: \{'document_id': 'c', .*\} has no label, which the splits train and test need$",
        ),
        (
            {"label": ["pos", "neg", "pos"]},
            r"^imdb\.documents: \{'document_id': 'b', .*\} has a label, which the split unlabelled must not have$",
        ),
        ({name: [] for name in GOOD}, r"^imdb\.documents has no rows$"),
    ],
)
def test_bad_documents_are_refused(make: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DocumentsContract("imdb.documents").validate(make({**GOOD, **change}))


@ENGINES
def test_missing_columns(make: Any) -> None:
    with pytest.raises(DataError, match=r"^d has no column 'label', 'split'$"):
        DocumentsContract("d").validate(make({"document_id": ["a"], "text": ["b"]}))
    with pytest.raises(DataError, match=r"^d has a column 'part' .* rename 'part' to 'split'$"):
        DocumentsContract("d").validate(make({("part" if name == "split" else name): GOOD[name] for name in GOOD}))
