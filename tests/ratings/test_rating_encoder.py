"""Users and items as rows: known, unknown, described; stored as JSON and read back."""

import json

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from simulated_ratings import N_ITEMS, N_USERS, items_table, ratings_table, users_table

from embedline.errors import DataError
from embedline.pipelines.ratings import encoder as encoding
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.encoder import RatingsEncoder, encode, fit_encoder
from embedline.pipelines.ratings.options import FeatureOptions

COLUMNS = RatingColumns()
SMALL = pl.DataFrame({"user": ["b", "a", "b"], "item": [7, 3, 3], "rating": [4.0, 2.0, 3.0]})
ITEMS = pl.DataFrame({"item": [9, 3, 7, 1], "kind": ["new", "old", "old", None]})


def test_rows_follow_the_sorted_ids_and_row_0_is_unknown() -> None:
    encoder = fit_encoder(SMALL, COLUMNS)
    assert encoder.users == ("a", "b")
    assert encoder.items == (3, 7)
    assert encoder.user_rows(["b", "c", "a"]).tolist() == [2, 0, 1]
    assert encoder.item_rows(np.array([7, 8, 3])).tolist() == [2, 0, 1]
    assert encoder.user_rows(["b"]).dtype == np.int32
    assert encoder.rating_mean == 3.0
    assert encoder.rating_range == (2.0, 4.0)


def test_ids_come_as_series_of_any_engine() -> None:
    encoder = fit_encoder(SMALL, COLUMNS)
    pandas = nw.from_native(SMALL.to_pandas(), eager_only=True)
    assert encoder.user_rows(pandas.get_column("user")).tolist() == [2, 1, 2]
    assert encoder.user_rows(SMALL["user"].cast(pl.Categorical)).tolist() == [2, 1, 2]
    assert encoder.item_rows(SMALL["item"].cast(pl.UInt16)).tolist() == [2, 1, 1]
    assert encoder.item_rows([]).tolist() == []


def test_long_columns_are_looked_up_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, users = fit_encoder(ratings_table(), COLUMNS), ratings_table()["user"]
    whole = encoder.user_rows(users)
    monkeypatch.setattr(encoding, "LOOKED_UP", 7)
    assert encoder.user_rows(users).tolist() == whole.tolist()
    assert [encoder.users[row - 1] for row in whole] == users.to_list()


def test_ids_of_another_type_are_refused() -> None:
    encoder = fit_encoder(SMALL, COLUMNS)
    with pytest.raises(DataError, match="item ids are Int64 in the encoder and String here"):
        encoder.item_rows(["7"])


def test_encoding_keeps_the_rows_in_order() -> None:
    ratings, split = ratings_table(), RatingSplit(kind="column", column="fold", value=3)
    encoder = fit_encoder(ratings.filter(pl.col("fold") != 3), COLUMNS)
    encoded = encode(ratings, encoder, COLUMNS, split)
    assert encoded.schema == {
        "user_row": pl.Int32,
        "item_row": pl.Int32,
        "rating": pl.Float32,
        "split": pl.Enum(["train", "test"]),
    }
    assert [encoder.users[row - 1] for row in encoded["user_row"]] == ratings["user"].to_list()
    assert [encoder.items[row - 1] for row in encoded["item_row"]] == ratings["item"].to_list()
    assert (encoded["split"] == "test").to_list() == (ratings["fold"] == 3).to_list()
    np.testing.assert_allclose(encoded["rating"], ratings["rating"], rtol=1e-6)


def test_an_item_that_training_never_saw_is_in_row_0() -> None:
    encoder = fit_encoder(SMALL, COLUMNS)
    rows = pl.DataFrame({"user": ["a", "z"], "item": [99, 3], "rating": [1.0, 5.0]})
    assert encode(rows, encoder).select("user_row", "item_row").rows() == [(1, 0), (0, 1)]


def test_items_that_only_the_frame_has_come_last_with_their_features() -> None:
    options = FeatureOptions(items=("kind",))
    encoder = fit_encoder(SMALL, COLUMNS, "auto", options, ITEMS)
    assert encoder.items == (3, 7, 1, 9)
    assert encoder.trained_items == 2
    assert encoder.item_features.columns[0].levels == ("old",)  # levels are those of trained items
    assert encoder.item_feature_codes.tolist() == [[0], [1], [1], [0], [0]]
    assert encoder.user_feature_codes.shape == (3, 0)


def test_features_of_users_and_items_from_pandas_frames_are_the_same() -> None:
    ratings, options = ratings_table(), FeatureOptions(items=("genres", "year"), users=("age", "taste"))
    ours = fit_encoder(ratings, COLUMNS, "auto", options, items_table(), users_table())
    theirs = fit_encoder(
        ratings.to_pandas(), COLUMNS, "auto", options, items_table().to_pandas(), users_table().to_pandas()
    )
    assert theirs == ours
    assert ours.item_feature_codes.shape == (N_ITEMS + 1, 3)  # two genres at most, and the year
    assert ours.user_feature_codes.shape == (N_USERS + 1, 2)


def test_the_encoder_is_the_same_after_json() -> None:
    options = FeatureOptions(items=("genres", "year"), users=("taste",))
    encoder = fit_encoder(ratings_table(), COLUMNS, (0.0, 6.0), options, items_table(), users_table())
    back = RatingsEncoder.model_validate(json.loads(json.dumps(encoder.model_dump(mode="json"))))
    assert back == encoder
    assert back.item_feature_codes.tolist() == encoder.item_feature_codes.tolist()
    assert back.item_rows([101, 1]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("span", "ratings", "message"),
    [
        ((5.0, 1.0), [1.0, 2.0, 3.0], "rating_range must rise"),
        ((1.0, 5.0), [0.5, 2.0, 3.0], r"column 'rating' holds ratings from 0.5 to 3 in training, beyond rating_range"),
        ("auto", [2.0, 2.0, 2.0], "all training ratings are 2"),
    ],
)
def test_a_range_that_does_not_hold_the_ratings_is_refused(span: object, ratings: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_encoder(SMALL.with_columns(rating=pl.Series(ratings)), COLUMNS, span)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, r"features.items lists \['kind'\], but the items frame is missing"),
        (ITEMS.drop("kind"), "the items frame has no column 'kind', which features.items names"),
        (ITEMS.rename({"item": "id"}), "the items frame has no column 'item', which columns.item names"),
        (pl.concat([ITEMS, ITEMS]), "the items frame has more than one row of 'item'"),
        (ITEMS.with_columns(pl.col("item").cast(pl.String)), "'item' holds Int64 in the ratings and String in the it"),
        (ITEMS.with_columns(kind=pl.lit(None, pl.String)), "column 'kind' holds only missing values in training"),
    ],
)
def test_a_frame_of_items_at_fault_is_named(items: pl.DataFrame | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_encoder(SMALL, COLUMNS, "auto", FeatureOptions(items=("kind",)), items)
