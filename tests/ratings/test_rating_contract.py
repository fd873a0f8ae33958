"""The frames that users give: what is read, what is refused by column and row, repeats, titles, and splits."""

import datetime as dt
import logging
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel, ValidationError
from simulated_ratings import ratings_table

from embedline.errors import DataError
from embedline.pipelines.ratings import nodes
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, assign_splits, item_titles, read_ratings
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.network import network_config
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork, RatingRange, RatingsTraining

PLAIN, NONE = RatingColumns(), RatingSplit(kind="none")
SPLIT, LATEST = RatingSplit(kind="random", fraction=0.5), RatingSplit(kind="latest", n=1)
RATINGS: dict[str, Any] = {"user": [1, 1, 2], "item": ["x", "y", "x"], "rating": [1.0, 2.0, 5.0]}


def pandas(**change: Any) -> pd.DataFrame:
    return pd.DataFrame({**RATINGS, **change})


def polars(**change: Any) -> pl.DataFrame:
    return pl.DataFrame({**RATINGS, **change}, strict=False)


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pandas(item=["x", 5, "x"]), ["item", "row 2"]),  # ids of two kinds
        (polars(item=pl.Series(["x", 5, "x"], dtype=pl.Object)), ["item", "row 2"]),
        (pandas(user=[1, 2**63 + 5, 2**63 + 7]), ["user", "row 2", "columns.user"]),
        (polars(user=pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64)), ["user", "row 3"]),
        (pandas(user=[1.0, 76561197960287930.0, 2.0]), ["user", "row 2", "columns.user"]),
        (pandas(user=np.array([1, 2**24, 3], dtype=np.float32)), ["user", "row 2"]),
        (pandas(user=[1, None, 2]), ["user", "row 2", "columns.user", "1 row"]),
        (polars(item=["x", None, "x"]), ["item", "row 2", "columns.item"]),
        (pandas(user=[1.5, 2, 2]), ["user", "row 1"]),
        (pandas(user=[1.0, np.inf, 2]), ["user", "row 2"]),
        (pandas(user=[True, False, True]), ["user", "Boolean"]),
        (pandas(item=[["x"], ["y"], ["x"]]), ["item", "List"]),
        (pandas(user=pd.to_datetime(["2020-01-01"] * 3)), ["user", "Datetime"]),
        (pandas(rating=["1", "good", "5"]), ["rating", "row 2", "good", "columns.rating"]),
        (pandas(rating=["1", "2", "5"]), ["rating", "columns.rating"]),
        (pandas(rating=[1, "good", 5]), ["rating", "row 2"]),
        (polars(rating=[1.0, float("nan"), 5.0]), ["rating", "row 2"]),
        (pandas(rating=[1.0, 2.0, None]), ["rating", "row 3"]),
        (pandas(rating=[1.0, -np.inf, 5]), ["rating", "row 2"]),
        (pandas(rating=[1.0, 1e300, 5]), ["rating", "row 2"]),
        (pandas(rating=[True, False, True]), ["rating", "Boolean"]),
        (polars(rating=[None, None, None]), ["rating"]),
        (pd.DataFrame([[1, "x", 1.0]]), ["header"]),  # header: null
        (pd.DataFrame([[1, 1, "x", 1.0]], columns=["user", "user", "item", "rating"]), ["user", "more than once"]),
        (pd.DataFrame({"user": [], "item": [], "rating": []}), ["no rows"]),
        ([1, 2], ["list"]),
        (pandas().rename(columns={"user": "users"}), ["'user'", "columns", "'users'"]),  # the nearest name
    ],
)
def test_what_is_refused(frame: Any, named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(frame, PLAIN, SPLIT, RatingRange(), FeatureOptions())
    message = str(caught.value)
    assert message.startswith("the ratings") and "\n" not in message
    assert all(word in message for word in named), message


ITEMS: dict[str, Any] = {"item": ["x", "y"], "title": ["X", "Y"], "year": [1990.0, 1991.0]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"item": ["x", 5]}, ["item", "row 2"]),
        ({"item": ["x", None]}, ["item", "row 2"]),
        ({"item": ["x", "x"]}, ["item", "row 2"]),
        ({"item": [1, 2]}, ["columns.item"]),
        ({"year": [1990.0, np.inf]}, ["year", "infinite", "row 2"]),
        ({"year": [1990, "soon"]}, ["year", "row 2"]),
    ],
)
def test_what_is_refused_of_items(change: dict[str, Any], named: list[str]) -> None:
    items, features = pd.DataFrame({**ITEMS, **change}), FeatureOptions(items=("year",))
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(pandas(), PLAIN, NONE, RatingRange(), features, items)
    message = str(caught.value)
    assert message.startswith("the items") and all(word in message for word in named), message


@pytest.mark.parametrize(
    ("items", "columns", "titles"),
    [
        (pl.DataFrame({"item": pl.Series([1, 2], dtype=pl.Int16), "title": ["One", None]}), {}, ["3", "One", "2"]),
        (None, {}, ["3", "1", "2"]),
        (pl.DataFrame({"item": [1], "title": ["One"]}), {"title": None}, ["3", "1", "2"]),
        (pl.LazyFrame({"item": [1, 3], "title": ["One", "Three"]}), {}, ["Three", "One", "2"]),
        (
            pd.DataFrame({"movieId": [1, 2, 3], "name": ["One", "Two", "Three"]}),
            {"item": "movieId", "title": "name"},
            ["Three", "One", "Two"],
        ),
    ],
)
def test_the_title_of_an_item_or_its_id(items: Any, columns: dict[str, Any], titles: list[str]) -> None:
    assert item_titles(pl.Series("item", [3, 1, 2]), items, RatingColumns(**columns)).to_list() == titles


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ({"item": [1], "name": ["One"]}, ["'title'", "columns.title"]),
        ({"item": ["1"], "title": ["One"]}, ["columns.item", "Int64", "String"]),
        ({"item": ["x", 5], "title": ["One", "Two"]}, ["item", "row 2"]),
    ],
)
def test_titles_that_cannot_be_read(items: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        item_titles(pl.Series("item", [3]), pd.DataFrame(items), PLAIN)
    message = str(caught.value)
    assert message.startswith("the items frame") or message.startswith("the items:"), message
    assert all(word in message for word in named), message


def test_times_with_a_zone_are_instants() -> None:
    berlin, utc = ZoneInfo("Europe/Berlin"), dt.UTC
    times = [dt.datetime(2020, 6, 1, 12, tzinfo=utc), dt.datetime(2020, 6, 1, 13, tzinfo=berlin)]  # 13:00 is 11:00 UTC
    for when in (pd.to_datetime(pd.Series(times), utc=True), pd.Series(times, dtype=object)):
        frame = pd.DataFrame({"user": [1, 1], "item": ["x", "y"], "rating": [1, 2], "timestamp": when})
        try:
            parts = assign_splits(frame, PLAIN, LATEST)
        except DataError as error:
            assert "timestamp" in str(error) and "zone" in str(error)
        else:
            assert parts["split"].to_list() == ["test", "train"]


@pytest.mark.parametrize(
    ("times", "named"),
    [
        (["2020-01-01", "2020-01-02", "2020-01-03"], ["columns.timestamp", "String", "parse_dates"]),
        ([1.0, np.inf, 2.0], ["timestamp", "row 2"]),
        ([1.0, None, 2.0], ["timestamp", "row 2"]),
        ([dt.time(1), dt.time(2), dt.time(3)], ["timestamp"]),
        ([1, "later", 2], ["timestamp", "row 2"]),
    ],
)
def test_times_that_are_none(times: list[Any], named: list[str]) -> None:
    for split in (LATEST, RatingSplit(kind="latest", fraction=0.5)):
        with pytest.raises(DataError) as caught:
            assign_splits(pandas(timestamp=times), PLAIN, split)
        assert all(word in str(caught.value) for word in named), str(caught.value)


def test_the_latest_of_repeated_ratings_counts(caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"user": [1, 1, 2, 1, 2, 3], "item": ["x", "x", "y", "x", "y", "x"], "rating": range(6)})
    assert read_ratings(frame, PLAIN)["rating"].to_list() == [3, 4, 5]
    timed = frame.with_columns(timestamp=pl.Series([9, 9, 8, 7, None, 1]))
    assert read_ratings(timed, PLAIN)["rating"].to_list() == [1, 2, 5]
    assert read_ratings(timed, RatingColumns(timestamp=None))["rating"].to_list() == [3, 4, 5]
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        nodes.fit_encoder(frame, PLAIN, SPLIT, RatingRange(), FeatureOptions())
    (message,) = caplog.messages
    assert message.startswith("ratings: 3 rows repeat") and "row 1" in message


@pytest.mark.parametrize(
    ("repeats", "expected"), [("last", [1, 2, 5]), ("mean", [4 / 3, 3, 5]), ("sum", [4, 6, 5]), (None, [1, 2, 5])]
)
def test_repeated_ratings_become_one_at_the_place_of_the_latest(repeats: Any, expected: list[float]) -> None:
    frame = pl.DataFrame({"user": [1, 1, 2, 1, 2, 3], "item": ["x", "x", "y", "x", "y", "x"], "rating": range(6)})
    timed = frame.with_columns(timestamp=pl.Series([9, 9, 8, 7, None, 1]))
    found = read_ratings(timed, RatingColumns(repeats=repeats))
    assert found["rating"].to_list() == pytest.approx(expected)
    assert found.select("user", "item", "timestamp").rows() == [(1, "x", 9), (2, "y", 8), (3, "x", 1)]


def test_repeats_are_refused_where_the_settings_say_so() -> None:
    frame = pl.DataFrame({"user": [1, 2, 1], "item": ["x", "x", "x"], "rating": [1, 2, 3]})
    with pytest.raises(DataError, match=r"1 rows repeat .*user 1 and item 'x' \(row 1\).*columns\.repeats"):
        read_ratings(frame, RatingColumns(repeats="error"))
    assert len(read_ratings(frame[:2], RatingColumns(repeats="error"))) == 2


@pytest.mark.parametrize(("repeats", "expected"), [(None, [2, 1, 1]), ("last", [1, 1, 1]), ("sum", [2, 1, 1])])
def test_events_are_counted(repeats: Any, expected: list[float], caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"user": [1, 1, 2, 1], "item": ["x", "x", "y", "z"]})
    with caplog.at_level(logging.WARNING):
        found = read_ratings(frame, RatingColumns(rating=None, repeats=repeats), warn=True)
    assert found["events"].to_list() == expected and found["events"].dtype == pl.Float32
    assert found.select("user", "item").rows() == [(1, "x"), (2, "y"), (1, "z")]
    assert not caplog.messages
    encoder = fit_encoder(frame.with_columns(events=pl.Series([1.0, 1.0, 1.0, 1.0])), RatingColumns(rating=None))
    assert encoder.rating_range == (0.0, 1.0)  # all alike is no fault of events


def test_the_latest_time_of_all_is_held_out() -> None:
    frame = pl.DataFrame(
        {"user": [1, 2, 3, 4, 5], "item": ["x"] * 5, "rating": [1.0] * 5, "timestamp": [50, 10, 40, 40, 20]}
    )
    for fraction, held_out in ((0.2, [1]), (0.4, [1, 3, 4]), (0.6, [1, 3, 4]), (0.8, [1, 3, 4, 5])):
        rows = assign_splits(frame, PLAIN, RatingSplit(kind="time", fraction=fraction))
        assert rows.filter(pl.col("split") == "test")["user"].to_list() == held_out
    with pytest.raises(DataError, match=r"split\.kind 'time' needs a time .*1 row\(s\), first in row 2"):
        assign_splits(
            frame.with_columns(timestamp=pl.Series([50, None, 40, 40, 20])),
            PLAIN,
            RatingSplit(kind="time", fraction=0.5),
        )
    with pytest.raises(ValueError, match=r"split\.kind 'time' needs a fraction"):
        RatingSplit(kind="time")


def test_a_text_of_a_time_does_not_order_repeated_ratings() -> None:
    frame = pl.DataFrame({"user": [1, 1], "item": [2, 2], "rating": [3, 4], "timestamp": ["9/1/2020", "10/1/2019"]})
    with pytest.raises(DataError, match=r"columns\.timestamp"):
        read_ratings(frame, PLAIN)
    assert len(read_ratings(frame.with_columns(item=pl.Series([2, 3])), PLAIN)) == 2  # nothing needs it there


@pytest.mark.parametrize(
    "split",
    [
        SPLIT,
        RatingSplit(kind="latest", n=2),
        RatingSplit(kind="column", column="fold", value=1),
        RatingSplit(kind="random", fraction=0.1, seed=3),
    ],
    ids=lambda split: split.kind,
)
@pytest.mark.parametrize("as_frame", [pl.DataFrame, pd.DataFrame])
def test_no_pair_is_on_both_sides_of_a_split(split: RatingSplit, as_frame: Any) -> None:
    rng = np.random.default_rng(0)
    numbers = {"user": rng.integers(0, 20, 900), "item": rng.integers(0, 30, 900), "fold": rng.integers(0, 3, 900)}
    frame = as_frame({**numbers, "rating": rng.integers(1, 6, 900), "timestamp": rng.integers(0, 99, 900)})
    parts = assign_splits(frame, PLAIN, split)
    assert not parts.select("user", "item").is_duplicated().any()
    assert len(parts) == len(set(zip(numbers["user"], numbers["item"], strict=True)))
    encoder = fit_encoder(parts.filter(pl.col("split") == "train"), PLAIN)
    encoded = encode(frame, encoder, PLAIN, split)
    assert encoded["split"].to_list() == parts["split"].to_list()


def held_out(ratings: object, split: RatingSplit, columns: RatingColumns = PLAIN) -> list[int]:
    return (assign_splits(ratings, columns, split)["split"] == "test").arg_true().to_list()


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
    assert held_out(ratings, LATEST) == [1, 7]  # c has one rating, which trains
    assert held_out(ratings, RatingSplit(kind="latest", n=2)) == [1, 3, 6, 7]
    assert held_out(ratings, RatingSplit(kind="latest", n=5)) == [0, 1, 3, 6, 7]  # the first of each stays
    # Half of a's four ratings; half of b's three, 1.5, is two.
    assert held_out(ratings, RatingSplit(kind="latest", fraction=0.5)) == [1, 3, 6, 7]
    # Of equal times the lower row is the later one; times may be datetimes.
    assert held_out(log("aaa", [7, 7, 7]), LATEST) == [2]
    assert held_out(log("aba", [7, 7, 3]), LATEST) == [0]
    assert held_out(log("aaa", [dt.datetime(2020, 1, day) for day in (3, 1, 2)]), LATEST) == [0]


def test_a_column_holds_out_the_rows_of_its_value_and_trains_those_without_one() -> None:
    ratings = log("abcd", [1, 2, 3, 4]).with_columns(fold=pl.Series([1, 2, None, 1]))
    assert held_out(ratings, RatingSplit(kind="column", column="fold", value=1)) == [0, 3]
    assert held_out(ratings, NONE) == []


@pytest.mark.parametrize(
    ("ratings", "split", "named"),
    [
        (log("ab", [1, 2]).drop("timestamp"), LATEST, ["'timestamp'"]),
        (log("ab", [1, 2]), LATEST, ["no rating to test"]),  # one rating each
        (log("ab", [1, 2]), {"kind": "column", "column": "fold", "value": 1}, ["'fold'", "split.column"]),
        (log("ab", [1, 2]), {"kind": "column", "column": "user", "value": 1}, ["split.value 1", "'user'"]),
        (log("ab", [1, 2]), {"kind": "column", "column": "user", "value": "c"}, ["no rating to test"]),
        (log("a", [1]), {"kind": "column", "column": "user", "value": "a"}, ["no rating to train"]),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(ratings: pl.DataFrame, split: Any, named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        assign_splits(ratings, PLAIN, RatingSplit.model_validate(split))
    assert all(word in str(caught.value) for word in named), str(caught.value)


def test_the_latest_split_needs_a_timestamp_column() -> None:
    with pytest.raises(DataError, match=r"columns\.timestamp"):
        assign_splits(log("aa", [1, 2]), RatingColumns(timestamp=None), LATEST)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (RatingSplit, {"kind": "random"}, "'random' needs a fraction"),
        (RatingSplit, {"kind": "latest"}, "either n, such as 1, or a fraction"),
        (RatingSplit, {"kind": "latest", "n": 1, "fraction": 0.2}, "either n, such as 1, or a fraction"),
        (RatingSplit, {"kind": "column", "column": "fold"}, "needs a column and the value"),
        (RatingSplit, {"kind": "random", "fraction": 1.0}, "fraction"),
        (RatingNetwork, {"kind": "mlp"}, "needs layers"),
        (RatingNetwork, {"layers": [10]}, "of the kind 'mlp'"),
        (RatingNetwork, {"dropout": 0.1}, "of the kind 'mlp'"),
        (RatingNetwork, {"kind": "mlp", "layers": [10, 5], "dropout": [0.1]}, "lists 1 rates for 2 layers"),
        (RatingNetwork, {"kind": "mlp", "layers": 10, "dropout": 1.0}, "must lie in"),
        (RatingNetwork, {"y_range": [5, 1]}, "must rise"),
        (RatingNetwork, {"factor": 5}, "factor"),
        (RatingColumns, {"user": "a", "item": "a"}, "different columns"),
        (RatingColumns, {"user": "split"}, "'split'"),
        *((RatingRange, value, "") for value in (5, [1, 2, 3], "wide", {"low": 1})),
        (RatingRange, [5, 1], "must rise"),
        (FeatureOptions, {"items": ["year", "year"]}, "features.items lists a column more than once"),
        (RatingsTraining, {"batch_size": 8, "epochs": 1, "lr": 0.1, "loss": "relative"}, "loss"),
        (RatingsTraining, {"batch_size": 8, "epochs": 1, "lr": 0.1, "penalty": {"factors": -1}}, "penalty.factors"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(model: type[BaseModel], values: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_a_rating_range_that_is_left_out_is_that_of_the_ratings() -> None:
    assert RatingRange().root == "auto"
    assert RatingRange.model_validate([1, 5]).root == (1.0, 5.0)


def test_hidden_layers_and_dropout_are_a_number_or_a_list() -> None:
    encoder = fit_encoder(pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.0, 2.0]}), RatingColumns())
    for layers, dropout, expected in ((10, 0.1, [0.1]), ([10, 5], 0.1, [0.1, 0.1]), ([10, 5], [0.1, 0.2], [0.1, 0.2])):
        options = RatingNetwork.model_validate({"kind": "mlp", "layers": layers, "dropout": dropout})
        config = network_config(encoder, options)
        assert (len(config["layers"]), config["dropouts"]) == (len(expected), expected)
    assert network_config(encoder, RatingNetwork())["dropouts"] == []
