"""The frames of ratings and items as users give them: what is read, what is refused by column and row, and repeats."""

import datetime as dt
import logging
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.ratings import nodes
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, assign_splits, item_titles, read_ratings
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.options import FeatureOptions, RatingRange

PLAIN = RatingColumns()
SPLIT = RatingSplit(kind="random", fraction=0.5)
RATINGS: dict[str, Any] = {"user": [1, 1, 2], "item": ["x", "y", "x"], "rating": [1.0, 2.0, 5.0]}


def pandas(**change: Any) -> pd.DataFrame:
    return pd.DataFrame({**RATINGS, **change})


def polars(**change: Any) -> pl.DataFrame:
    return pl.DataFrame({**RATINGS, **change}, strict=False)


@pytest.mark.parametrize(
    "frame",
    [
        polars().lazy(),
        pandas().set_index("user"),
        polars().to_arrow(),
        pandas(user=pd.Series([1, 1, 2], dtype="Int64"), rating=pd.Series([1, 2, 5], dtype=object)),
        pandas(user=[1.0, 1.0, 2.0], item=pd.Series(["x", "y", "x"], dtype="category")),
        pandas(note=pd.Series(["a", 5, b"z"], dtype=object)),  # nothing reads it
        polars(user=pl.Series([1, 1, 2], dtype=pl.UInt64)),
    ],
)
def test_frames_of_any_engine_are_read(frame: Any) -> None:
    rows = read_ratings(frame, PLAIN)
    assert rows.select("user", "item", "rating").rows() == [(1, "x", 1.0), (1, "y", 2.0), (2, "x", 5.0)]
    assert rows.schema["rating"] == pl.Float32


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (pandas(item=["x", 5, "x"]), ["item", "row 2"]),  # ids of two kinds
        (polars(item=pl.Series(["x", 5, "x"], dtype=pl.Object)), ["item", "row 2"]),
        (pandas(user=[1, 2**63 + 5, 2**63 + 7]), ["user", "row 2", "columns.user"]),
        (polars(user=pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64)), ["user", "row 3"]),
        (pandas(user=[1.0, 76561197960287930.0, 2.0]), ["user", "row 2", "columns.user"]),
        (pandas(user=np.array([1, 2**24, 3], dtype=np.float32)), ["user", "row 2"]),
        (pandas(user=[1, None, 2]), ["user", "row 2", "columns.user"]),
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
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(
            pandas(), PLAIN, RatingSplit(kind="none"), RatingRange(), FeatureOptions(items=("year",)),
            pd.DataFrame({**ITEMS, **change}),
        )  # fmt: skip
    message = str(caught.value)
    assert message.startswith("the items") and all(word in message for word in named), message


def test_titles_of_a_lazy_frame() -> None:
    ids = pl.Series("item", ["y", "z"])
    assert item_titles(ids, pl.LazyFrame(ITEMS), PLAIN).to_list() == ["Y", "z"]
    with pytest.raises(DataError, match=r"^the items.*row 2"):
        item_titles(ids, pd.DataFrame({**ITEMS, "item": ["x", 5]}), PLAIN)


def test_times_with_a_zone_are_instants() -> None:
    berlin, utc = ZoneInfo("Europe/Berlin"), dt.UTC
    times = [dt.datetime(2020, 6, 1, 12, tzinfo=utc), dt.datetime(2020, 6, 1, 13, tzinfo=berlin)]  # 13:00 is 11:00 UTC
    for when in (pd.to_datetime(pd.Series(times), utc=True), pd.Series(times, dtype=object)):
        frame = pd.DataFrame({"user": [1, 1], "item": ["x", "y"], "rating": [1, 2], "timestamp": when})
        try:
            parts = assign_splits(frame, PLAIN, RatingSplit(kind="latest", n=1))
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
    for split in (RatingSplit(kind="latest", n=1), RatingSplit(kind="latest", fraction=0.5)):
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


def test_the_range_is_mended_by_auto() -> None:
    with pytest.raises(DataError) as caught:
        nodes.fit_encoder(pandas(), PLAIN, SPLIT, RatingRange((1.5, 4.0)), FeatureOptions())
    assert "rating_range" in str(caught.value) and "auto" in str(caught.value)
