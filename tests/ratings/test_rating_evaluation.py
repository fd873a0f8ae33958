"""Errors and rankings by hand and against a plain loop, damped biases by hand, and the folds of a cross-validation."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from simulated_ratings import ratings_table

from embedline.errors import DataError
from embedline.pipelines.ratings import evaluation
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, subset
from embedline.pipelines.ratings.cross_validation import ModelSettings, cross_validate
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.evaluation import fit_biases, ranking_metrics
from embedline.pipelines.ratings.learner import load_model, rating_metrics, rating_tensors, train_ratings
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    CrossValidationOptions,
    RankingOptions,
    RatingNetwork,
    RatingsTraining,
)


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
    scores = biases.scores(np.array([3, 0], dtype=np.int32))
    assert scores.dtype == np.float32
    for row, own in ((3, scores[0]), (0, scores[1])):
        np.testing.assert_allclose(own, biases.predict(np.full(3, row), np.array([1, 2, 3])), rtol=1e-6)
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
    for k, precision, recall, ndcg in (
        (2, (1 / 2 + 0) / 2, (1 / 2 + 0) / 2, (1 / best + 0) / 2),
        (4, (2 / 4 + 1 / 4) / 2, (1 + 1 / 2) / 2, ((1 + 1 / 2) / best + (1 / math.log2(5)) / best) / 2),
    ):
        found = ranking_metrics(lambda users: table[users - 1], rows, 4, RankingOptions(k=k, relevant=4.0))
        expected = {f"precision_at_{k}": precision, f"recall_at_{k}": recall, f"ndcg_at_{k}": ndcg, "ranked_users": 2}
        assert found == pytest.approx(expected)
    nothing = encoded([(1, 1, 5.0, "train"), (1, 2, 2.0, "test")])
    found = ranking_metrics(lambda users: np.zeros((len(users), 2), np.float32), nothing, 2, RankingOptions())
    assert found == {"precision_at_10": None, "recall_at_10": None, "ndcg_at_10": None, "ranked_users": 0}


@pytest.mark.parametrize("cells", [1, 100, 2**24])
@pytest.mark.parametrize("k", [3, 10, 40])
def test_rankings_are_those_of_a_plain_loop_in_any_blocks(k: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BLOCK_SCORES", cells)
    random = np.random.default_rng(0)
    n_users, n_items = 20, 30
    table = random.normal(size=(n_users + 1, n_items)).astype(np.float32)
    pairs = random.permutation(n_users * n_items)[:300]
    rows = [
        (int(pair // n_items) + 1, int(pair % n_items) + 1, float(random.integers(1, 6)), str(split))
        for pair, split in zip(pairs, random.choice(["train", "test"], 300), strict=True)
    ]
    found = ranking_metrics(lambda users: table[users], encoded(rows), n_items, RankingOptions(k=k, relevant=4.0))
    sums, users = np.zeros(3), 0
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
        sums += [sum(hits) / k, sum(hits) / len(wanted), gain / ideal]
    expected = dict(zip([f"precision_at_{k}", f"recall_at_{k}", f"ndcg_at_{k}"], sums / users, strict=True))
    assert found == pytest.approx({**expected, "ranked_users": users})


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
