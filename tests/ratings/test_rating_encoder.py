"""Users and items as rows and as codes of features: known, unknown, described; stored as JSON and read back."""

import json
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from simulated_ratings import N_ITEMS, N_USERS, items_table, ratings_table, users_table

from embedline.errors import DataError
from embedline.pipelines.ratings import encoder as encoding
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.encoder import (
    FeatureColumn,
    Features,
    RatingsEncoder,
    encode,
    fit_encoder,
    fit_feature,
)
from embedline.pipelines.ratings.options import FeatureOptions

COLUMNS = RatingColumns()
SMALL = pl.DataFrame({"user": ["b", "a", "b"], "item": [7, 3, 3], "rating": [4.0, 2.0, 3.0]})
ITEMS = pl.DataFrame({"item": [9, 3, 7, 1], "kind": ["new", "old", "old", None]})


def test_rows_follow_the_sorted_ids_and_row_0_is_unknown() -> None:
    encoder = fit_encoder(SMALL, COLUMNS)
    assert (encoder.users, encoder.items) == (("a", "b"), (3, 7))
    assert (encoder.rating_mean, encoder.rating_range) == (3.0, (2.0, 4.0))
    pandas = nw.from_native(SMALL.to_pandas(), eager_only=True).get_column("user")
    for users, rows in (
        (["b", "c", "a"], [2, 0, 1]),
        (pandas, [2, 1, 2]),
        (SMALL["user"].cast(pl.Categorical), [2, 1, 2]),
    ):
        assert encoder.user_rows(users).tolist() == rows and encoder.user_rows(users).dtype == np.int32
    for items, rows in ((np.array([7, 8, 3]), [2, 0, 1]), (SMALL["item"].cast(pl.UInt16), [2, 1, 1]), ([], [])):
        assert encoder.item_rows(items).tolist() == rows
    with pytest.raises(DataError, match=r"item ids are Int64 .* String"):
        encoder.item_rows(["7"])
    unknown = pl.DataFrame({"user": ["a", "z"], "item": [99, 3], "rating": [1.0, 5.0]})
    assert encode(unknown, encoder).select("user_row", "item_row").rows() == [(1, 0), (0, 1)]


def test_long_columns_are_looked_up_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, users = fit_encoder(ratings_table(), COLUMNS), ratings_table()["user"]
    whole = encoder.user_rows(users)
    monkeypatch.setattr(encoding, "LOOKED_UP", 7)
    assert encoder.user_rows(users).tolist() == whole.tolist()
    assert [encoder.users[row - 1] for row in whole] == users.to_list()


def test_the_age_of_a_row_counts_the_later_training_rows_of_its_user() -> None:
    rows = pl.DataFrame(
        {"user": [1, 1, 1, 1, 2], "item": [1, 2, 3, 4, 1], "rating": [1.0, 2.0, 3.0, 4.0, 5.0], "held": [0, 0, 0, 1, 0]}
    )
    encoder, split = fit_encoder(rows, COLUMNS), RatingSplit(kind="column", column="held", value=1)
    timed = encode(rows.with_columns(timestamp=pl.Series([7, 3, 7, 9, 1])), encoder, COLUMNS, split)
    assert timed["age"].to_list() == [1, 2, 0, None, 0]  # of equal times the lower row is the later one
    missing = encode(rows.with_columns(timestamp=pl.Series([7, None, 5, 9, None])), encoder, COLUMNS, split)
    assert missing["age"].to_list() == [0, 2, 1, None, 0]
    for frame in (rows, rows.with_columns(timestamp=pl.Series(list("abcde")))):  # no times, and none that have an order
        assert "age" not in encode(frame, encoder, COLUMNS, split).columns


def test_items_can_be_hidden_from_an_encoder() -> None:
    table, items = ratings_table(), items_table()
    encoder = fit_encoder(table, COLUMNS, "auto", FeatureOptions(items=("genres",)), items)
    hidden = np.zeros(encoder.trained_items, dtype=bool)
    hidden[[0, 5]] = True
    fewer, rows = encoder.without_items(hidden)
    assert (fewer.trained_items, len(fewer.items)) == (encoder.trained_items - 2, len(encoder.items))
    assert fewer.items[fewer.trained_items : fewer.trained_items + 2] == (encoder.items[0], encoder.items[5])
    for old, new in enumerate(rows[1:], start=1):
        assert fewer.items[new - 1] == encoder.items[old - 1]
        assert fewer.item_feature_codes[new].tolist() == encoder.item_feature_codes[old].tolist()
    assert rows[0] == 0


def test_encoding_keeps_the_rows_in_order() -> None:
    ratings, split = ratings_table(), RatingSplit(kind="column", column="fold", value=3)
    encoder = fit_encoder(ratings.filter(pl.col("fold") != 3), COLUMNS)
    encoded = encode(ratings, encoder, COLUMNS, split)
    types = [pl.Int32, pl.Int32, pl.Float32, pl.Enum(["train", "test"]), pl.Int32]
    assert encoded.schema == dict(zip(("user_row", "item_row", "rating", "split", "age"), types, strict=True))
    assert [encoder.users[row - 1] for row in encoded["user_row"]] == ratings["user"].to_list()
    assert [encoder.items[row - 1] for row in encoded["item_row"]] == ratings["item"].to_list()
    assert (encoded["split"] == "test").to_list() == (ratings["fold"] == 3).to_list()
    np.testing.assert_allclose(encoded["rating"], ratings["rating"], rtol=1e-6)


def test_items_that_only_the_frame_has_come_last_with_their_features() -> None:
    encoder = fit_encoder(SMALL, COLUMNS, "auto", FeatureOptions(items=("kind",)), ITEMS)
    assert (encoder.items, encoder.trained_items) == ((3, 7, 1, 9), 2)
    assert encoder.item_features.columns[0].levels == ("old",)  # levels are those of trained items
    assert encoder.item_feature_codes.tolist() == [[0], [1], [1], [0], [0]]
    assert encoder.user_feature_codes.shape == (3, 0)
    with pytest.raises(DataError, match=r"features\.users .*'team'.* the users frame"):
        fit_encoder(SMALL, COLUMNS, "auto", FeatureOptions(users=("team",)))


def test_the_encoder_is_the_same_from_pandas_and_after_json() -> None:
    ratings, options = ratings_table(), FeatureOptions(items=("genres", "year"), users=("age", "taste"))
    frames = (ratings, items_table(), users_table())
    ours, theirs = (
        fit_encoder(rows, COLUMNS, (0.0, 6.0), options, items, users)
        for rows, items, users in (frames, (frame.to_pandas() for frame in frames))
    )
    assert theirs == ours
    assert ours.item_feature_codes.shape == (N_ITEMS + 1, 3)  # two genres at most, and the year
    assert ours.user_feature_codes.shape == (N_USERS + 1, 2)
    back = RatingsEncoder.model_validate(json.loads(json.dumps(ours.model_dump(mode="json"))))
    assert back == ours
    assert back.item_feature_codes.tolist() == ours.item_feature_codes.tolist()
    assert back.item_rows([101, 1]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("span", "ratings", "named"),
    [
        ((1.0, 5.0), [0.5, 2.0, 3.0], ["'rating'", "from 0.5 to 3", "rating_range", "auto"]),
        ("auto", [2.0, 2.0, 2.0], ["all training ratings are 2", "rating_range"]),
    ],
)
def test_a_range_that_does_not_hold_the_ratings_is_refused(span: Any, ratings: list[float], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        fit_encoder(SMALL.with_columns(rating=pl.Series(ratings)), COLUMNS, span)
    assert all(word in str(caught.value) for word in named), str(caught.value)


@pytest.mark.parametrize(
    ("items", "named"),
    [
        (None, ["features.items", "'kind'", "items frame"]),
        (ITEMS.drop("kind"), ["items frame", "'kind'", "features.items"]),
        (ITEMS.rename({"item": "id"}), ["items frame", "'item'", "columns.item"]),
        (pl.concat([ITEMS, ITEMS]), ["items frame", "more than one row of 'item'"]),
        (ITEMS.with_columns(pl.col("item").cast(pl.String)), ["'item'", "Int64", "String", "items frame"]),
        (ITEMS.with_columns(kind=pl.lit(None, pl.String)), ["'kind'", "only missing values", "features.items"]),
        (ITEMS.with_columns(kind=pl.lit([1])), ["'kind'", "List", "features.items"]),
    ],
)
def test_a_frame_of_items_at_fault_is_named(items: pl.DataFrame | None, named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        fit_encoder(SMALL, COLUMNS, "auto", FeatureOptions(items=("kind",)), items)
    assert all(word in str(caught.value) for word in named), str(caught.value)


def fit(values: list[Any], bins: int = 4) -> FeatureColumn:
    return fit_feature(pl.Series("x", values), bins, key="features.items")


def test_levels_are_sorted_and_numbers_are_cut_into_bins_of_one_width() -> None:
    assert fit(["b", "a", None, "b"]).levels == ("a", "b")
    assert fit([["b", "c"], [], None, ["a"]]).levels == ("a", "b", "c")
    assert fit([True, None]).levels == ("True",)
    feature = fit(list(range(101)))  # the first percentile is 1, the last 99
    assert feature.cuts == (25.5, 50.0, 74.5)
    # A bin without a value joins the one below; a single value is a single bin.
    assert fit([0.0] * 50 + [1.0] * 50 + [10.0] * 50).cuts == (7.5,)  # cuts at 2.5, 5, 7.5
    assert fit([3, 3, 3]).size == 1


def test_codes_of_several_columns_follow_one_another_and_weigh_alike() -> None:
    train = pl.DataFrame({"g": [["b", "a"], ["c"], None], "y": [0.0, 10.0, 20.0], "h": [True, False, True]})
    features = Features(columns=tuple(fit_feature(train[name], 2, key="features.items") for name in ("g", "y", "h")))
    assert features.size == 3 + 2 + 2
    codes = features.codes(train, "the items frame")
    assert codes.tolist() == [[1, 2, 4, 7], [3, 0, 5, 6], [0, 0, 5, 7]]  # the cut at 10 begins the second bin
    assert codes.dtype == np.int32
    root = 1 / np.sqrt(2)  # one over the root of the number of features of the same column
    np.testing.assert_allclose(features.weights(codes), [[root, root, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("trained", "new", "codes"),
    [
        ([["a"], ["b"], ["c"]], [["c", "new", "a", "b", "a"], ["new"], None], [[1, 2, 3], [0, 0, 0], [0, 0, 0]]),
        ([["a"], ["b"], ["c"]], [["new"]], [[]]),
        ([1.0, 2.0, 3.0, None, float("nan")], [None, float("nan"), -50.0, 50.0], [[0], [0], [1], [2]]),
        (["a", "b"], [None, None], [[0], [0]]),  # a column of nothing
        ([["a"]], [None, None], [[0], [0]]),
        ([1.0, 2.0], [None, None], [[0], [0]]),
    ],
)
def test_unseen_levels_and_missing_values_are_no_feature(
    trained: list[Any], new: list[Any], codes: list[list[int]]
) -> None:
    features = Features(columns=(fit(trained, bins=2),))
    assert features.codes(pl.DataFrame({"x": new}), "the items frame").tolist() == codes


@pytest.mark.parametrize(
    ("frame", "named"), [({"y": ["a"]}, ["no column 'x'"]), ({"x": [1]}, ["column 'x'", "a number", "a string"])]
)
def test_a_new_frame_at_fault_is_named(frame: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        Features(columns=(fit(["a", "b"]),)).codes(pl.DataFrame(frame), "the items frame")
    assert all(word in str(caught.value) for word in ["the items frame", *named]), str(caught.value)
