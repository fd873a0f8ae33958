"""What a model has learned comes out as it is in its weights, whatever axes its members have."""

import numpy as np
import polars as pl
import pytest
import torch
from hand_made import encoded_of, encoder_of, model_of, small_items, small_ratings

from embedline.pipelines.ratings import item_analysis
from embedline.pipelines.ratings.contract import RatingSplit, subset
from embedline.pipelines.ratings.encoder import training_counts
from embedline.pipelines.ratings.item_analysis import (
    concatenate_factors,
    crosstab,
    item_biases,
    item_map,
    most_rated,
    nearest_items,
)
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.ranking_metrics import RatedItems
from embedline.training.plots import principal_components

RATINGS, ITEMS = small_ratings(), small_items()
ENCODER = encoder_of(RATINGS, ITEMS, features=("genres",))
MODEL = model_of(ENCODER, (0.75, 0.25))
ENCODED = encoded_of(RATINGS, ENCODER)


def factors(model: RatingModel, member: int, row: int) -> np.ndarray:
    return model.networks[member].item_vectors(torch.tensor([row]))[0][0].detach().double().numpy()


def test_biases_are_the_weighted_mean_of_the_members() -> None:
    biases = item_biases(ENCODED, MODEL, ITEMS)
    assert biases.columns == ["item", "title", "n_ratings", "mean_rating", "bias", "deviation"]
    assert biases["item"].to_list() == list(ENCODER.items) == [f"i{k}" for k in range(9)]
    assert biases["title"].to_list() == [f"Film {k}" for k in range(9)]
    each = np.array([[network.item_vectors([row]).biases.item() for row in range(1, 10)] for network in MODEL.networks])
    mean = 0.75 * each[0] + 0.25 * each[1]
    assert biases["bias"].to_list() == pytest.approx(mean.tolist(), abs=1e-6)
    spread = np.sqrt(0.75 * (each[0] - mean) ** 2 + 0.25 * (each[1] - mean) ** 2)
    assert biases["deviation"].to_list() == pytest.approx(spread.tolist(), abs=1e-6)
    for item in ENCODER.items:
        own = RATINGS.filter(pl.col("item") == item)
        row = biases.row(by_predicate=pl.col("item") == item, named=True)
        assert row["n_ratings"] == len(own)
        assert row["mean_rating"] == (pytest.approx(own["rating"].mean()) if len(own) else None)
    assert biases["n_ratings"][8] == 0  # in the frame of items alone


def test_neighbours_have_the_largest_mean_cosine_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = nearest_items(ENCODED, MODEL, k=3, items=ITEMS)
    assert found.columns == ["item", "title", "rank", "neighbour", "neighbour_title", "cosine"]
    assert "i8" not in {*found["item"], *found["neighbour"]}  # nobody has rated it
    for row in range(1, 9):
        cosines = {}
        for other in {*range(1, 9)} - {row}:
            pairs = [(factors(MODEL, member, row), factors(MODEL, member, other)) for member in range(2)]
            each = [p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in pairs]
            cosines[f"i{other - 1}"] = 0.75 * each[0] + 0.25 * each[1]
        best = sorted(cosines, key=cosines.__getitem__, reverse=True)[:3]
        own = found.filter(pl.col("item") == f"i{row - 1}")
        assert own["neighbour"].to_list() == best
        assert own["cosine"].to_list() == pytest.approx([cosines[item] for item in best], abs=1e-5)
        assert own["rank"].to_list() == [1, 2, 3]
        assert own["neighbour_title"].to_list() == [f"Film {item[1:]}" for item in best]
    monkeypatch.setattr(item_analysis, "BLOCK_COSINES", 20)
    assert nearest_items(ENCODED, MODEL, k=3, items=ITEMS).drop("cosine").equals(found.drop("cosine"))


def test_items_with_few_ratings_are_left_out_on_either_side() -> None:
    counts = dict(RATINGS["item"].value_counts().iter_rows())
    least = sorted(counts.values())[-3]
    kept = {item for item, count in counts.items() if count >= least}
    found = nearest_items(ENCODED, MODEL, k=5, min_ratings=least)
    assert {*found["item"]} == {*found["neighbour"]} == kept
    assert len(found) == len(kept) * (len(kept) - 1)
    empty = nearest_items(ENCODED, MODEL, k=5, min_ratings=1000)
    assert empty.shape == (0, 6)
    assert empty.schema == found.schema


def test_a_rotation_of_a_member_changes_nothing() -> None:
    turned = model_of(ENCODER, (0.75, 0.25))
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    with torch.no_grad():
        for side in (turned.networks[1].users, turned.networks[1].items):
            for table in (side.own, side.feature):
                if table is not None:
                    table[:, :4] = table[:, :4] @ torch.as_tensor(rotation, dtype=torch.float32)
    assert turned.scores(np.arange(1, 11)) == pytest.approx(MODEL.scores(np.arange(1, 11)), abs=1e-5)
    ours, theirs = nearest_items(ENCODED, MODEL, k=3), nearest_items(ENCODED, turned, k=3)
    assert theirs["neighbour"].to_list() == ours["neighbour"].to_list()
    before, after = item_map(ENCODED, MODEL, 8), item_map(ENCODED, turned, 8)
    for axis in ("x", "y"):
        assert after[axis].abs().to_list() == pytest.approx(before[axis].abs().to_list(), abs=1e-4)


def test_the_map_shows_the_most_rated_items_by_their_components() -> None:
    found = item_map(ENCODED, MODEL, 5, ITEMS)
    assert found.columns == ["item", "title", "n_ratings", "bias", "x", "y"]
    counts = RATINGS["item"].value_counts().sort(["count", "item"], descending=[True, False]).head(5)
    assert found.select("item", "n_ratings").rows() == counts.rows()
    rows = [ENCODER.items.index(item) + 1 for item in found["item"]]
    vectors = np.array(
        [np.append(np.sqrt(0.75) * factors(MODEL, 0, r), np.sqrt(0.25) * factors(MODEL, 1, r)) for r in rows]
    )
    assert found.select("x", "y").to_numpy() == pytest.approx(principal_components(vectors), abs=1e-5)


def test_unit_vectors_of_zero_stay_zero_and_the_most_frequent_come_first() -> None:
    vectors = concatenate_factors(MODEL, np.arange(9), normalised=True)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.array([0.0, *np.ones(8)]), abs=1e-6)
    assert most_rated(np.array([99, 3, 0, 7, 3, 1]), 3).tolist() == [3, 1, 4]  # never row 0
    assert most_rated(np.array([99, 3, 0, 7, 3, 1]), 9).tolist() == [3, 1, 4, 5]


def test_training_counts_leave_held_out_rows_alone() -> None:
    split = RatingSplit(kind="column", column="held", value=True)
    held = RATINGS.with_columns(held=pl.col("user") == 10)
    encoded = encoded_of(held, ENCODER, split)
    counts = training_counts(encoded, ENCODER)
    assert (counts.users.sum(), counts.users[10]) == (len(RATINGS) - 7, 0)
    assert counts.items.tolist() == [
        0,
        *(held.filter(~pl.col("held") & (pl.col("item") == item)).height for item in ENCODER.items),
    ]
    places, items = RatedItems(subset(encoded, "train"), 10).pairs(np.array([10, 4, 1]))
    for place, user in ((0, 10), (1, 4), (2, 1)):
        own = sorted(ENCODER.items[row - 1] for row in items[places == place])
        assert own == ([] if user == 10 else sorted(RATINGS.filter(pl.col("user") == user)["item"]))


def test_the_crosstab_has_ratings_and_predictions() -> None:
    split = RatingSplit(kind="column", column="held", value=True)
    held = RATINGS.with_columns(held=pl.int_range(pl.len()) % 6 == 0)
    encoded = encoded_of(held, ENCODER, split)
    train = held.filter(~pl.col("held"))
    cells = crosstab(encoded, MODEL, 4, ITEMS)
    assert len(cells) == 16
    order = {
        name: train[name].value_counts().sort(["count", name], descending=[True, False])[name].head(4).to_list()
        for name in ("user", "item")
    }
    assert cells["user"].unique(maintain_order=True).to_list() == order["user"]
    assert cells["item"].head(4).to_list() == order["item"]
    actual = {(user, item): (rating, out) for user, item, rating, out in held.iter_rows()}
    for cell in cells.iter_rows(named=True):
        rating, out = actual.get((cell["user"], cell["item"]), (float("nan"), False))
        assert cell["actual"] == pytest.approx(rating, nan_ok=True)
        assert cell["held_out"] is out
        row = np.array([ENCODER.users.index(cell["user"]) + 1]), np.array([ENCODER.items.index(cell["item"]) + 1])
        assert cell["predicted"] == pytest.approx(MODEL.predict(*row)[0])
        assert cell["title"] == f"Film {cell['item'][1:]}"
