"""The contracts of ratings and items, on both engines, with the message that the user reads."""

import datetime as dt
from typing import Any

import narwhals as nw
import pandas as pd
import polars as pl
import pytest

from embedline.datasets.contracts import ItemsContract, RatingsContract
from embedline.errors import DataError

ENGINES = pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
RATINGS: dict[str, list[Any]] = {
    "user": [2, 1, 2],
    "item": ["x", "x", "y"],
    "rating": [3.5, 1.0, 5.0],
    "timestamp": [10, 20, 10],
    "note": [None, "a", "b"],
}
ITEMS: dict[str, list[Any]] = {"item": [2, 1], "title": ["A", ""], "genres": [["Drama"], []], "year": [1999, None]}


@ENGINES
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rating": [3, 1, 5]},
        {"timestamp": [None, None, None]},
        {"timestamp": [dt.datetime(2020, 1, 1), None, dt.datetime(2021, 1, 1)]},
        {"user": ["b", "a", "b"], "item": [1, 1, 2]},
        {"user": [1, 1, 2], "item": ["x", "y", "x"]},  # in order: the quick way to tell that no pair comes twice
    ],
)
def test_good_ratings_come_back_as_they_are(make: Any, change: dict[str, list[Any]]) -> None:
    frame = make({**RATINGS, **change})
    assert RatingsContract("r").validate(frame) is frame
    bare = make({name: values for name, values in {**RATINGS, **change}.items() if name in RatingsContract.columns})
    assert RatingsContract("r").validate(bare) is bare


@ENGINES
def test_categories_are_text(make: Any) -> None:
    frame = nw.from_native(make(RATINGS)).with_columns(nw.col("item").cast(nw.Categorical)).to_native()
    assert RatingsContract("r").validate(frame) is frame
    twice = nw.from_native(make({**RATINGS, "user": [2, 1, 1], "item": ["y", "x", "x"]}))
    twice = twice.with_columns(nw.col("item").cast(nw.Categorical)).to_native()
    with pytest.raises(DataError, match=r"^r: \{'user': 1, 'item': 'x'\} occurs more than once$"):
        RatingsContract("r").validate(twice)


@ENGINES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": ["x", "x", "x"]}, r"^s\.ratings: \{'user': 2, 'item': 'x'\} occurs more than once$"),
        ({"user": [1, 1, 1], "item": ["x", "y", "y"]}, r"^s\.ratings: \{'user': 1, 'item': 'y'\} occurs more than"),
        ({"rating": [1.0, None, 2.0]}, r"^s\.ratings: column 'rating' has 1 missing values$"),
        ({"item": ["x", None, "y"]}, r"^s\.ratings: column 'item' has 1 missing values$"),
        (
            {"rating": [1.0, float("inf"), 2.0]},
            r"^s\.ratings: \{'user': 1, 'item': 'x', 'rating': inf\} has a rating that is not finite$",
        ),
        ({"rating": ["3", "1", "5"]}, r"^s\.ratings: column 'rating' has the type String; it holds numbers$"),
        (
            {"user": [1.0, 2.0, 3.5]},
            r"^s\.ratings: column 'user' has the type Float64; it holds text or whole numbers$",
        ),
        (
            {"timestamp": ["2020", "2021", "2022"]},
            r"^s\.ratings: column 'timestamp' has the type String; it holds whole seconds since 1970 or dates$",
        ),
        ({name: [] for name in RATINGS}, r"^s\.ratings has no rows$"),
    ],
)
def test_bad_ratings_are_refused(make: Any, change: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RatingsContract("s.ratings").validate(make({**RATINGS, **change}))


@ENGINES
def test_missing_columns(make: Any) -> None:
    with pytest.raises(DataError, match=r"^r has no column 'item', 'rating'$"):
        RatingsContract("r").validate(make({"user": [1]}))
    with pytest.raises(DataError, match=r"^i has no column 'title', 'genres'$"):
        ItemsContract("i").validate(make({"item": [1]}))


@ENGINES
def test_good_items_come_back_as_they_are(make: Any) -> None:
    frame = make(ITEMS)
    assert ItemsContract("i").validate(frame) is frame
    named = make({**ITEMS, "item": ["b", "a"]})
    assert ItemsContract("i").validate(named) is named


@ENGINES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": [2, 2]}, r"^s\.items: \{'item': 2\} occurs more than once$"),
        ({"title": ["A", None]}, r"^s\.items: column 'title' has 1 missing values$"),
        ({"title": [1, 2]}, r"^s\.items: column 'title' has the type Int64; it holds text$"),
        ({"genres": ["Drama", "War"]}, r"^s\.items: column 'genres' has the type String; it holds lists of text$"),
        ({"genres": [["Drama"], None]}, r"^s\.items: column 'genres' has 1 missing values$"),
        ({"item": [0.5, 1.0]}, r"^s\.items: column 'item' has the type Float64; it holds text or whole numbers$"),
        ({name: [] for name in ITEMS}, r"^s\.items has no rows$"),
    ],
)
def test_bad_items_are_refused(make: Any, change: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ItemsContract("s.items").validate(make({**ITEMS, **change}))
