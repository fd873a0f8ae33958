"""Errors and rankings by hand and against a plain loop, damped biases by hand, and the folds of a cross-validation."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from simulated_ratings import ratings_table

from embedline.errors import DataError
from embedline.pipelines.ratings import ranking_metrics as lists
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, subset
from embedline.pipelines.ratings.cross_validation import ModelSettings, cross_validate
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.evaluation import fit_biases
from embedline.pipelines.ratings.learner import load_model, rating_metrics, rating_tensors, train_ratings
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    CrossValidationOptions,
    RankingOptions,
    RatingNetwork,
    RatingsTraining,
)
from embedline.pipelines.ratings.ranking_metrics import list_distances, measure_lists


def encoder_of(n_users: int, n_items: int, rating: str | None = "rating") -> Any:
    """As much of an encoder as the metrics of lists read; no features."""
    features, columns = SimpleNamespace(size=0), SimpleNamespace(rating=rating)
    sizes = {"users": range(n_users), "items": range(n_items), "trained_users": n_users}
    return SimpleNamespace(**sizes, item_features=features, columns=columns)


def encoded(rows: list[tuple[int, int, float, str]]) -> pl.DataFrame:
    schema = {"user_row": pl.Int32, "item_row": pl.Int32, "rating": pl.Float32, "split": pl.Enum(["train", "test"])}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_errors_of_ratings() -> None:
    found = rating_metrics(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0]))
    assert found == pytest.approx({"mse": 5 / 3, "rmse": math.sqrt(5 / 3), "mae": 1.0, "r2": 1 - 5 / 2})


def test_damped_biases_by_hand() -> None:
    rows = encoded([(1, 1, 5.0, "train"), (1, 2, 3.0, "train"), (2, 1, 4.0, "train"), (3, 1, 2.0, "train")])
    rows = pl.concat([rows, encoded([(1, 3, 1.0, "test")])])  # mean 3.5 in training
    sizes: Any = SimpleNamespace(users=range(4), items=range(3))
    biases = fit_biases(rows, sizes, BaselineOptions(user_damping=1.0, item_damping=2.0))
    item = [0.0, (1.5 + 0.5 - 1.5) / 5, -0.5 / 3, 0.0]  # item 3 has no rating
    user = [0.0, (1.5 - item[1] - 0.5 - item[2]) / 3, (0.5 - item[1]) / 2, (-1.5 - item[1]) / 2, 0.0]
    assert biases.mean == 3.5
    np.testing.assert_allclose(biases.item, item)
    np.testing.assert_allclose(biases.user, user)
    predicted = biases.predict(np.array([1, 0, 4]), np.array([2, 1, 0]))
    np.testing.assert_allclose(predicted, [3.5 + user[1] + item[2], 3.5 + item[1], 3.5])
    means = fit_biases(rows, sizes, BaselineOptions(user_damping=0.0, item_damping=0.0))
    np.testing.assert_allclose(means.item, [0.0, np.mean([1.5, 0.5, -1.5]), -0.5, 0.0])  # no 0 / 0 for item 3


def test_rankings_by_hand() -> None:
    rows = encoded(
        [
            (1, 1, 5.0, "train"),
            (1, 2, 4.0, "test"),
            (1, 4, 5.0, "test"),
            (1, 3, 1.0, "test"),  # not relevant
            (2, 1, 4.5, "test"),
            (2, 0, 5.0, "test"),  # an item that training never saw
            (3, 1, 3.0, "test"),  # a user without a relevant item
            (0, 1, 5.0, "test"),  # unknown
        ]
    )
    table = np.array([[9.0, 3.0, 2.0, 1.0], [1.0, 4.0, 3.0, 2.0]], dtype=np.float32)  # of the users 1 and 2
    # User 1 ranks 2, 3, 4 (1 is known): hits at the places 1 and 3. User 2 ranks 2, 3, 4, 1: a hit at place 4.
    best = 1 + 1 / math.log2(3)
    for k, precision, recall, ndcg, mrr in (
        (2, (1 / 2 + 0) / 2, (1 / 2 + 0) / 2, (1 / best + 0) / 2, 1 / 2),
        (
            *(4, (2 / 4 + 1 / 4) / 2, (1 + 1 / 2) / 2),
            *(((1 + 1 / 2) / best + (1 / math.log2(5)) / best) / 2, (1 + 1 / 4) / 2),
        ),
    ):
        found = measure_lists(lambda users: table[users - 1], rows, encoder_of(3, 4), RankingOptions(k=k)).summary()
        expected = {f"precision_at_{k}": precision, f"recall_at_{k}": recall, f"ndcg_at_{k}": ndcg, f"mrr_at_{k}": mrr}
        # Only item 1 has a training rating, of the only user with one: it and all others count as known to everybody.
        assert found == pytest.approx({**expected, "ranked_users": 2, "coverage": {2: 2, 4: 4}[k] / 4, "novelty": 0.0})
    nothing = encoded([(1, 1, 5.0, "train"), (1, 2, 2.0, "test")])
    zeros = {f"{name}_at_10": None for name in ("precision", "recall", "ndcg", "mrr")}
    found = measure_lists(
        lambda users: np.zeros((len(users), 2), np.float32), nothing, encoder_of(1, 2), RankingOptions()
    ).summary()
    assert found == {**zeros, "coverage": None, "novelty": None, "ranked_users": 0}
    found = measure_lists(
        lambda users: np.zeros((len(users), 2), np.float32), nothing, encoder_of(1, 2, None), RankingOptions()
    ).summary()
    assert found["ndcg_at_10"] == 1.0  # of events, any that is held out is relevant


def test_novelty_coverage_and_diversity_by_hand() -> None:
    rows = encoded([(1, 1, 5.0, "train"), (2, 1, 5.0, "train"), (2, 2, 5.0, "train"), (1, 3, 4.0, "test")])
    table = np.array([[0.0, 2.0, 3.0, 1.0]], dtype=np.float32)  # user 1 is shown items 3 and 2
    found = measure_lists(lambda users: table, rows, encoder_of(2, 4), RankingOptions(k=2))
    # One of two users has rated item 2, nobody item 3, which counts as one: one bit each.
    assert found.lists == pytest.approx({"coverage": 2 / 4, "novelty": 1.0})
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
    pairs = (1 - 0.0) + (1 - 0.6) + (1 - 0.8)
    distances = list_distances(vectors, np.array([[1, 2, 3], [1, 2, 0], [1, 0, 0]]))
    np.testing.assert_allclose(distances[:2], [pairs / 3, 1.0], rtol=1e-6)
    assert np.isnan(distances[2])  # a list of one


def test_the_interval_of_the_ndcg_and_the_difference_are_over_users() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.random(400), random.random(400) - 0.3
    first, second = (lists.ListMetrics({"ndcg": values}, {}, 10, {}) for values in (ours, theirs))
    error = ours.std() / 20
    found = first.interval()
    assert found["ndcg_at_10_low"] == pytest.approx(ours.mean() - 1.96 * error, abs=0.1 * error)
    assert found["ndcg_at_10_high"] == pytest.approx(ours.mean() + 1.96 * error, abs=0.3 * error)
    difference = first.difference(second)
    assert difference["difference"] == pytest.approx(ours.mean() - theirs.mean())
    assert difference["verdict"] == "better" and second.difference(first)["verdict"] == "worse"


@pytest.mark.parametrize("cells", [1, 100, 2**24])
@pytest.mark.parametrize("k", [3, 10, 40])
def test_rankings_are_those_of_a_plain_loop_in_any_blocks(k: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BLOCK_SCORES", cells)
    random = np.random.default_rng(0)
    n_users, n_items = 20, 30
    table = random.normal(size=(n_users + 1, n_items)).astype(np.float32)
    pairs = random.permutation(n_users * n_items)[:300]
    rows = [
        (int(pair // n_items) + 1, int(pair % n_items) + 1, float(random.integers(1, 6)), str(split))
        for pair, split in zip(pairs, random.choice(["train", "test"], 300), strict=True)
    ]
    encoder, options = encoder_of(n_users, n_items), RankingOptions(k=k, relevant=4.0)
    found = measure_lists(lambda users: table[users], encoded(rows), encoder, options).summary()
    sums, users, listed, bits = np.zeros(4), 0, set(), []
    active = len({who for who, _, _, split in rows if split == "train"})
    raters = [sum(item == one and split == "train" for _, one, _, split in rows) for item in range(n_items + 1)]
    for user in range(1, n_users + 1):
        known = {item for who, item, _, split in rows if who == user and split == "train"}
        wanted = {item for who, item, rating, split in rows if who == user and split == "test" and rating >= 4}
        if not wanted:
            continue
        users += 1
        order = sorted(set(range(1, n_items + 1)) - known, key=lambda item: (-table[user, item - 1], item))[:k]
        hits = [1.0 if item in wanted else 0.0 for item in order]
        gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        sums += [sum(hits) / k, sum(hits) / len(wanted), gain / ideal, 1 / (hits.index(1.0) + 1) if any(hits) else 0.0]
        listed |= set(order)
        bits += [-math.log2(max(1, raters[item]) / active) for item in order]
    names = [f"{name}_at_{k}" for name in ("precision", "recall", "ndcg", "mrr")]
    expected = dict(zip(names, sums / users, strict=True))
    of_lists = {"coverage": len(listed) / n_items, "novelty": sum(bits) / len(bits)}
    assert found == pytest.approx({**expected, **of_lists, "ranked_users": users})


NETWORK = RatingNetwork(factors=4, init_std=0.1)
TRAINING = RatingsTraining(epochs=3, batch_size=32, lr=0.02, seeds=(1, 2), device="cpu", precision="fp32")
SETTINGS = ModelSettings(RatingColumns(), NETWORK, TRAINING, BaselineOptions())


def test_a_fold_is_what_a_training_on_the_others_gives() -> None:
    ratings = ratings_table(1000)
    found = cross_validate(ratings.to_pandas(), CrossValidationOptions(column="fold"), SETTINGS)
    assert [fold["value"] for fold in found["folds"]] == [1, 2, 3, 4, 5]
    assert [(fold["train_rows"], fold["rows"]) for fold in found["folds"]] == [(800, 200)] * 5
    encoder = fit_encoder(ratings.filter(pl.col("fold") != 2), SETTINGS.columns)
    split = RatingSplit(kind="column", column="fold", value=2)
    rows = encode(ratings, encoder, SETTINGS.columns, split)
    bundle, _ = train_ratings(rows, encoder, NETWORK, TRAINING)
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(rows, "test")))
    expected = rating_metrics(actual, load_model(bundle).predict(users, items))
    assert {name: found["folds"][1][name] for name in expected} == expected
    assert found["mean_rmse"] == pytest.approx(sum(fold["rmse"] for fold in found["folds"]) / 5)
    damped = [fold["baselines"]["damped_bias"]["mse"] for fold in found["folds"]]
    assert found["baselines"]["damped_bias"]["mean_mse"] == pytest.approx(sum(damped) / 5)


def test_values_can_be_listed_and_a_column_without_any_is_refused() -> None:
    ratings = ratings_table(500)
    found = cross_validate(ratings, CrossValidationOptions(column="fold", values=(4, 2)), SETTINGS)
    assert [fold["value"] for fold in found["folds"]] == [4, 2]
    with pytest.raises(DataError, match=r"cross_validation\.column 'fold' has 0 value"):
        cross_validate(ratings.with_columns(fold=pl.lit(None, pl.Int8)), CrossValidationOptions(), SETTINGS)
