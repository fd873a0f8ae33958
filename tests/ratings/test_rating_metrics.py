"""Ranking metrics by hand and against a plain loop."""

import math

import numpy as np
import polars as pl
import pytest

from embedline.pipelines.ratings import evaluation
from embedline.pipelines.ratings.evaluation import ranking_metrics
from embedline.pipelines.ratings.learner import rating_metrics
from embedline.pipelines.ratings.options import RankingOptions

PARTS = pl.Enum(["train", "test"])


def encoded(rows: list[tuple[int, int, float, str]]) -> pl.DataFrame:
    schema = {"user_row": pl.Int32, "item_row": pl.Int32, "rating": pl.Float32, "split": PARTS}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_errors_of_ratings() -> None:
    found = rating_metrics(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0]))
    assert found == pytest.approx({"mse": 5 / 3, "rmse": math.sqrt(5 / 3), "mae": 1.0, "r2": 1 - 5 / 2})


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

    def scores(users: np.ndarray) -> np.ndarray:
        return table[users - 1]

    # User 1 ranks 2, 3, 4 (1 is known): hits at the places 1 and 3. User 2 ranks 2, 3, 4, 1: a hit at place 4.
    two = ranking_metrics(scores, rows, 4, RankingOptions(k=2, relevant=4.0))
    assert two["users"] == 2
    assert two["precision_at_2"] == pytest.approx((1 / 2 + 0) / 2)
    assert two["recall_at_2"] == pytest.approx((1 / 2 + 0) / 2)
    assert two["ndcg_at_2"] == pytest.approx((1 / (1 + 1 / math.log2(3)) + 0) / 2)
    four = ranking_metrics(scores, rows, 4, RankingOptions(k=4, relevant=4.0))
    assert four["precision_at_4"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert four["recall_at_4"] == pytest.approx((1 + 1 / 2) / 2)
    best = 1 + 1 / math.log2(3)
    assert four["ndcg_at_4"] == pytest.approx(((1 + 1 / 2) / best + (1 / math.log2(5)) / best) / 2)
    assert table[0, 0] == 9.0  # what the caller keeps is left alone


@pytest.mark.parametrize("cells", [1, 100, 2**24])
@pytest.mark.parametrize("k", [3, 10, 40])
def test_rankings_are_those_of_a_plain_loop_in_any_blocks(k: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BLOCK_SCORES", cells)
    random = np.random.default_rng(0)
    n_users, n_items = 20, 30
    table = random.normal(size=(n_users + 1, n_items)).astype(np.float32)
    pairs = random.permutation(n_users * n_items)[:300]
    rows = [
        (int(pair // n_items) + 1, int(pair % n_items) + 1, float(random.integers(1, 6)), str(part))
        for pair, part in zip(pairs, random.choice(["train", "test"], 300), strict=True)
    ]
    found = ranking_metrics(lambda users: table[users], encoded(rows), n_items, RankingOptions(k=k, relevant=4.0))
    sums, users = np.zeros(3), 0
    for user in range(1, n_users + 1):
        known = {item for who, item, _, part in rows if who == user and part == "train"}
        wanted = {item for who, item, rating, part in rows if who == user and part == "test" and rating >= 4}
        if not wanted:
            continue
        users += 1
        order = sorted(set(range(1, n_items + 1)) - known, key=lambda item: (-table[user, item - 1], item))[:k]
        hits = [1.0 if item in wanted else 0.0 for item in order]
        gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        sums += [sum(hits) / k, sum(hits) / len(wanted), gain / ideal]
    expected = dict(zip([f"precision_at_{k}", f"recall_at_{k}", f"ndcg_at_{k}"], sums / users, strict=True))
    assert found == pytest.approx({**expected, "users": users})


def test_without_a_relevant_item_there_is_no_metric() -> None:
    rows = encoded([(1, 1, 5.0, "train"), (1, 2, 2.0, "test")])
    found = ranking_metrics(lambda users: np.zeros((len(users), 2), np.float32), rows, 2, RankingOptions())
    assert found == {"precision_at_10": None, "recall_at_10": None, "ndcg_at_10": None, "users": 0}
