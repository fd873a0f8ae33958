"""The contracts of canonical frames, on each engine, and what their messages name."""

import datetime as dt
import json
from datetime import date
from pathlib import Path
from typing import Any

import narwhals as nw
import pandas as pd
import polars as pl
import pytest

from embedline.datasets import PolarsFrame
from embedline.datasets.contracts import DocumentsContract, ItemsContract, RatingsContract, TableContract
from embedline.errors import DataError

ENGINES = pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
LAZY_TOO = pytest.mark.parametrize("make", [pl.DataFrame, pl.LazyFrame, pd.DataFrame])
TABLE: dict[str, list[Any]] = {"shop": [1, 1, 2], "day": [1, 2, 1], "sales": [5.0, None, 6.0]}
DOCUMENTS: dict[str, list[Any]] = {
    "document_id": ["c", "a", "b"],
    "text": ["good", "", "what"],
    "label": ["pos", "neg", None],
    "split": ["train", "test", "unlabelled"],
    "stars": [9, 1, None],
}
RATINGS: dict[str, list[Any]] = {
    "user": [2, 1, 2],
    "item": ["x", "x", "y"],
    "rating": [3.5, 1.0, 5.0],
    "timestamp": [10, 20, 10],
    "note": [None, "a", "b"],
}
ITEMS: dict[str, list[Any]] = {"item": [2, 1], "title": ["A", ""], "genres": [["Drama"], []], "year": [1999, None]}
GOOD = {DocumentsContract: DOCUMENTS, RatingsContract: RATINGS, ItemsContract: ITEMS}


def refused(contract: Any, frame: Any, *named: str) -> None:
    """The message begins with the dataset and names what is at fault."""
    with pytest.raises(DataError) as caught:
        contract.validate(frame)
    message = str(caught.value)
    assert message.startswith(contract.frame) and all(text in message for text in named), message


@LAZY_TOO
def test_a_good_table_comes_back_as_it_is(make: Any) -> None:
    frame = make(TABLE)
    assert TableContract("t", required=["sales"], unique=["shop", "day"], not_null=["shop"]).validate(frame) is frame
    assert TableContract("t").validate(frame) is frame


@LAZY_TOO
@pytest.mark.parametrize(
    ("change", "contract", "named"),
    [
        ({}, {"required": ["sales", "open", "id"]}, ["no column 'open', 'id'"]),
        ({}, {"unique": ["till"], "not_null": ["till"]}, ["no column 'till'"]),
        ({}, {"not_null": ["shop", "sales"]}, ["'sales'", "1 missing"]),
        ({"day": [1, 2, 2]}, {"unique": ["day"]}, ["day 2", "2 times"]),
        ({"shop": [1, 2, 2], "day": [3, 4, 4]}, {"unique": ["shop", "day"]}, ["shop 2, day 4", "2 times"]),
        ({name: [] for name in TABLE}, {}, ["no rows"]),
    ],
)
def test_a_bad_table_is_refused(make: Any, change: dict[str, Any], contract: dict[str, Any], named: list[str]) -> None:
    refused(TableContract("sales.table", **contract), make({**TABLE, **change}), *named)


@ENGINES
@pytest.mark.parametrize(
    ("contract", "change"),
    [
        (DocumentsContract, {}),
        (DocumentsContract, {"label": [None] * 3, "split": ["unlabelled"] * 3}),
        (RatingsContract, {}),
        (RatingsContract, {"rating": [3, 1, 5]}),
        (RatingsContract, {"timestamp": [None, None, None]}),
        (RatingsContract, {"timestamp": [dt.datetime(2020, 1, 1), None, dt.datetime(2021, 1, 1)]}),
        (RatingsContract, {"user": ["b", "a", "b"], "item": [1, 1, 2]}),
        (RatingsContract, {"user": [1, 1, 2], "item": ["x", "y", "x"]}),  # in order: no pair twice, seen quickly
        (ItemsContract, {}),
        (ItemsContract, {"item": ["b", "a"]}),
    ],
)
def test_good_frames_come_back_as_they_are(make: Any, contract: Any, change: dict[str, list[Any]]) -> None:
    columns = {**GOOD[contract], **change}
    for given in (columns, {name: columns[name] for name in contract.columns}):
        frame = make(given)
        assert contract("d").validate(frame) is frame


@ENGINES
@pytest.mark.parametrize(
    ("contract", "change", "named"),
    [
        (DocumentsContract, {"document_id": ["a", "b", "a"]}, ["document_id a", "2 times"]),
        (DocumentsContract, {"document_id": [1, 2, 3]}, ["'document_id'", "Int64", "text"]),
        (DocumentsContract, {"text": ["a", None, "b"]}, ["'text'", "1 missing"]),
        (DocumentsContract, {"split": ["train", None, "test"]}, ["'split'", "1 missing"]),
        (DocumentsContract, {"label": [1, 0, 1]}, ["'label'", "Int64", "text"]),
        (
            DocumentsContract,
            {"split": ["train", "valid", "unlabelled"]},
            ["'document_id': 'a'", "none of train, test, unlabelled"],
        ),
        (DocumentsContract, {"label": [None, "neg", None]}, ["'document_id': 'c'", "no label"]),
        (DocumentsContract, {"label": ["pos", "neg", "pos"]}, ["'document_id': 'b'", "a label", "must not have"]),
        (RatingsContract, {"item": ["x", "x", "x"]}, ["user 2, item x", "more than once"]),
        (RatingsContract, {"user": [1, 1, 1], "item": ["x", "y", "y"]}, ["user 1, item y", "more than once"]),
        (RatingsContract, {"rating": [1.0, None, 2.0]}, ["'rating'", "1 missing"]),
        (RatingsContract, {"item": ["x", None, "y"]}, ["'item'", "1 missing"]),
        (RatingsContract, {"rating": [1.0, float("inf"), 2.0]}, ["'user': 1, 'item': 'x'", "not finite"]),
        (RatingsContract, {"rating": ["3", "1", "5"]}, ["'rating'", "String", "numbers"]),
        (RatingsContract, {"user": [1.0, 2.0, 3.5]}, ["'user'", "Float64", "text or whole numbers"]),
        (RatingsContract, {"timestamp": ["2020", "2021", "2022"]}, ["'timestamp'", "String", "since 1970 or dates"]),
        (ItemsContract, {"item": [2, 2]}, ["item 2", "2 times"]),
        (ItemsContract, {"title": ["A", None]}, ["'title'", "1 missing"]),
        (ItemsContract, {"title": [1, 2]}, ["'title'", "Int64", "text"]),
        (ItemsContract, {"genres": ["Drama", "War"]}, ["'genres'", "String", "lists of text"]),
        (ItemsContract, {"genres": [["Drama"], None]}, ["'genres'", "1 missing"]),
        (ItemsContract, {"item": [0.5, 1.0]}, ["'item'", "Float64", "text or whole numbers"]),
        *((contract, {name: [] for name in columns}, ["no rows"]) for contract, columns in GOOD.items()),
    ],
)
def test_bad_frames_are_refused(make: Any, contract: Any, change: dict[str, Any], named: list[str]) -> None:
    refused(contract("source.frame"), make({**GOOD[contract], **change}), *named)


@ENGINES
def test_missing_columns(make: Any) -> None:
    refused(DocumentsContract("d"), make({"document_id": ["a"], "text": ["b"]}), "no column 'label', 'split'")
    old = {("part" if name == "split" else name): values for name, values in DOCUMENTS.items()}
    refused(DocumentsContract("d"), make(old), "'part'", "'split'", "rename")
    refused(RatingsContract("r"), make({"user": [1]}), "no column 'item', 'rating'")
    refused(ItemsContract("i"), make({"item": [1]}), "no column 'title', 'genres'")


@ENGINES
def test_categories_are_text(make: Any) -> None:
    def categorical(columns: dict[str, list[Any]]) -> Any:
        return nw.from_native(make(columns)).with_columns(nw.col("item").cast(nw.Categorical)).to_native()

    frame = categorical(RATINGS)
    assert RatingsContract("r").validate(frame) is frame
    twice = categorical({**RATINGS, "user": [2, 1, 1], "item": ["y", "x", "x"]})
    refused(RatingsContract("r"), twice, "user 1, item x", "more than once")


FRAME = pl.DataFrame(
    {
        "name": ["a", None, "c"],
        "value": [0.5, float("nan"), 1.5],
        "count": [1, 2, 3],
        "day": [date(2015, 8, 1), None, date(2015, 8, 3)],
        "vector": [[0.25] * 10, [1.0, -2.0], []],
        "genres": [["Drama", "War"], ["Comedy"], None],
    }
)


@pytest.mark.parametrize("file_format", ["ipc", "parquet"])
def test_cells_are_json_values(tmp_path: Path, file_format: str) -> None:
    dataset = PolarsFrame(filepath=str(tmp_path / "frame"), file_format=file_format)
    dataset.save(FRAME)
    shown = dataset.preview(nrows=2)
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "index": [0, 1],
        "columns": FRAME.columns,
        "data": [
            ["a", 0.5, 1, "2015-08-01", ", ".join(["0.25"] * 8) + " …", "Drama, War"],
            [None, None, 2, None, "1, -2", "Comedy"],
        ],
    }
    assert dataset.load().equals(FRAME)
