"""Which ratings are held out, and what is refused."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest
from simulated_ratings import ratings_table

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, assign_splits

COLUMNS = RatingColumns()


def held_out(ratings: object, split: RatingSplit, columns: RatingColumns = COLUMNS) -> list[int]:
    parts = assign_splits(ratings, columns, split)
    return (parts["split"] == "test").arg_true().to_list()


def log(users: str, times: list[object]) -> pl.DataFrame:
    """A rating a letter of ``users``, at ``times``."""
    n = len(users)
    return pl.DataFrame({"user": list(users), "item": range(n), "rating": [1.0] * n, "timestamp": times})


def test_a_random_split_is_the_draw_of_its_seed_in_the_order_of_the_rows() -> None:
    drawn = np.random.default_rng(42).random(2000) < 0.2
    found = held_out(ratings_table(), RatingSplit(kind="random", fraction=0.2))
    assert found == np.flatnonzero(drawn).tolist()
    assert found != held_out(ratings_table(), RatingSplit(kind="random", fraction=0.2, seed=1))


def test_the_latest_ratings_of_each_user_are_held_out() -> None:
    #           row 0  1  2  3  4  5  6  7
    ratings = log("aaabbcab", [5, 9, 1, 3, 2, 7, 8, 4])
    assert held_out(ratings, RatingSplit(kind="latest", n=1)) == [1, 7]  # c has one rating, which trains
    assert held_out(ratings, RatingSplit(kind="latest", n=2)) == [1, 3, 6, 7]
    assert held_out(ratings, RatingSplit(kind="latest", n=5)) == [0, 1, 3, 6, 7]  # the first of each stays
    # Half of a's four ratings; half of b's three, 1.5, is two.
    assert held_out(ratings, RatingSplit(kind="latest", fraction=0.5)) == [1, 3, 6, 7]


def test_of_equal_times_the_lower_row_is_the_later_one() -> None:
    assert held_out(log("aaa", [7, 7, 7]), RatingSplit(kind="latest", n=1)) == [2]
    assert held_out(log("aba", [7, 7, 3]), RatingSplit(kind="latest", n=1)) == [0]


def test_times_may_be_datetimes() -> None:
    times: list[object] = [datetime(2020, 1, day) for day in (3, 1, 2)]
    assert held_out(log("aaa", times), RatingSplit(kind="latest", n=1)) == [0]


def test_a_column_holds_out_the_rows_of_its_value_and_trains_those_without_one() -> None:
    ratings = log("abcd", [1, 2, 3, 4]).with_columns(fold=pl.Series([1, 2, None, 1]))
    assert held_out(ratings, RatingSplit(kind="column", column="fold", value=1)) == [0, 3]


def test_nothing_is_held_out() -> None:
    assert held_out(log("abcd", [1, 2, 3, 4]), RatingSplit(kind="none")) == []


@pytest.mark.parametrize(
    "split",
    [RatingSplit(kind="random", fraction=0.2), RatingSplit(kind="latest", n=3)],
    ids=lambda split: split.kind,
)
def test_a_pandas_frame_is_split_like_a_polars_one(split: RatingSplit) -> None:
    ratings = ratings_table()
    assert held_out(ratings.to_pandas(), split) == held_out(ratings, split)


def test_columns_of_ones_own_keep_their_names() -> None:
    ratings = ratings_table().rename({"user": "userId", "item": "movieId"}).drop("timestamp")
    columns = RatingColumns(user="userId", item="movieId", timestamp=None)
    parts = assign_splits(ratings, columns, RatingSplit(kind="none"))
    assert parts.columns == ["userId", "movieId", "rating", "fold", "split"]
    assert parts.schema["rating"] == pl.Float32


def test_ids_of_other_types_become_whole_numbers_or_strings() -> None:
    ratings = pl.DataFrame({"user": [3.0, 1.0], "item": pl.Series(["b", "a"], dtype=pl.Categorical), "rating": [1, 2]})
    parts = assign_splits(ratings, COLUMNS, RatingSplit(kind="none"))
    assert parts["user"].to_list() == [3, 1]
    assert parts.schema["user"] == pl.Int64
    assert parts.schema["item"] == pl.String


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"user": pl.Series(["a", None])},
            r"column 'user' \(columns.user\) has no value in 1 row\(s\), first in",
        ),
        (
            {"item": pl.Series([1.5, 2.0])},
            r"\(columns.item\) has no whole number in 1 row\(s\), first in row 1",
        ),
        ({"item": pl.Series([True, False])}, "columns.item names 'item', which holds Boolean"),
        ({"rating": pl.Series([1.0, None])}, r"column 'rating' \(columns.rating\) has no number in 1 row"),
        ({"rating": pl.Series([float("nan"), 1.0])}, "first in row 1"),
        ({"rating": pl.Series([float("inf"), 1.0])}, "first in row 1"),
        ({"rating": pl.Series(["5", "4"])}, "columns.rating names 'rating', which holds String"),
    ],
)
def test_a_column_at_fault_is_named(change: dict[str, pl.Series], message: str) -> None:
    ratings = log("ab", [1, 2]).with_columns(**change)
    with pytest.raises(DataError, match=message):
        assign_splits(ratings, COLUMNS, RatingSplit(kind="none"))


def test_a_missing_column_is_named_with_the_nearest_one() -> None:
    ratings = log("ab", [1, 2]).rename({"user": "users"})
    with pytest.raises(DataError, match="no column 'user', which columns names: did you mean 'users'"):
        assign_splits(ratings, COLUMNS, RatingSplit(kind="none"))


@pytest.mark.parametrize(
    ("ratings", "split", "message"),
    [
        (log("ab", [1, None]), {"kind": "latest", "n": 1}, "needs a time for every rating: column 'timestamp'"),
        (log("ab", ["1", "2"]), {"kind": "latest", "n": 1}, "columns.timestamp names 'timestamp', which holds String"),
        (log("ab", [1, 2]).drop("timestamp"), {"kind": "latest", "n": 1}, "no column 'timestamp'"),
        (log("ab", [1, 2]), {"kind": "latest", "n": 1}, "leaves no rating to test"),  # one rating each
        (log("ab", [1, 2]), {"kind": "column", "column": "fold", "value": 1}, "no column 'fold', which split.column"),
        (log("ab", [1, 2]), {"kind": "column", "column": "user", "value": 1}, "split.value 1 is not of the type"),
        (log("ab", [1, 2]), {"kind": "column", "column": "user", "value": "c"}, "leaves no rating to test"),
        (log("a", [1]), {"kind": "column", "column": "user", "value": "a"}, "leaves no rating to train"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(ratings: pl.DataFrame, split: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign_splits(ratings, COLUMNS, RatingSplit.model_validate(split))


def test_the_latest_split_needs_a_timestamp_column() -> None:
    with pytest.raises(DataError, match=r"columns\.timestamp, which is null"):
        assign_splits(log("aa", [1, 2]), RatingColumns(timestamp=None), RatingSplit(kind="latest", n=1))
