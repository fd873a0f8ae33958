"""Recommendations are the highest scores of what a user has not rated."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hand_made import encoded_of, encoder_of, model_of, small_items, small_ratings

from embedline.errors import DataError
from embedline.pipelines.ratings import ranking_metrics as lists
from embedline.pipelines.ratings.contract import RatingSplit
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
from embedline.pipelines.ratings.options import FoldInOptions, Penalty, RecommendationOptions
from embedline.pipelines.ratings.rankers import Ease, Popularity
from embedline.pipelines.ratings.ranking import Recommender, interaction_matrix
from embedline.pipelines.ratings.ranking_metrics import top_items
from embedline.pipelines.ratings.recommend import recommend, recommend_for_ratings

RATINGS = small_ratings()
ENCODER = encoder_of(RATINGS)
MODEL = model_of(ENCODER, (0.75, 0.25))
ENCODED = encoded_of(RATINGS, ENCODER)
MATRIX = interaction_matrix(ENCODED, ENCODER)
COUNTS = Popularity.fit(MATRIX)
RANKED = Recommender(ENCODER, "ease", Ease.fit(MATRIX, penalty=1.0), COUNTS, MATRIX, MODEL)
PREDICTED = Recommender(ENCODER, "rating", None, COUNTS, MATRIX, MODEL)  # the predicted ratings as a ranker


def expected(user: int, k: int, recommender: Recommender = RANKED) -> list[tuple[str, float]]:
    """Best items of a user by looking at each pair alone."""
    rated = set(RATINGS.filter(pl.col("user") == user)["item"])
    row = ENCODER.users.index(user) + 1
    scores = recommender.scores(np.array([row]))[0]
    left = [(item, float(score)) for item, score in zip(ENCODER.items, scores, strict=True) if item not in rated]
    return sorted(left, key=lambda pair: -pair[1])[:k]


@pytest.mark.parametrize("recommender", [RANKED, PREDICTED], ids=["ease", "rating"])
def test_every_user_gets_the_best_of_what_is_left(recommender: Recommender) -> None:
    found = recommend(ENCODED, recommender, RecommendationOptions(k=3), small_items())
    assert found.columns == ["user", "rank", "item", "title", "score", "predicted"]
    left = [user for user in ENCODER.users if expected(user, 3)]
    assert found["user"].unique(maintain_order=True).to_list() == left
    assert len(left) == len(ENCODER.users) - 1  # one has rated everything
    for user in left:
        own = found.filter(pl.col("user") == user)
        best = expected(user, 3, recommender)
        assert own["item"].to_list() == [item for item, _ in best]
        assert own["rank"].to_list() == list(range(1, len(best) + 1))
        assert own["score"].to_list() == pytest.approx([score for _, score in best], abs=1e-6)
        assert own["title"].to_list() == [f"Film {item[1:]}" for item, _ in best]
        rows = np.full(len(best), ENCODER.users.index(user) + 1), ENCODER.item_rows(own["item"])
        assert own["predicted"].to_list() == pytest.approx(MODEL.predict(*rows).tolist(), abs=1e-6)


def test_predicted_ratings_stay_in_the_range_and_scores_need_not() -> None:
    wild = replace(PREDICTED, model=model_of(ENCODER, std=1.5))
    found = recommend(ENCODED, wild, RecommendationOptions(k=8))
    assert found["score"].max() > 5.0  # where the best items would be equal if it were cut off
    assert found["predicted"].max() == 5.0 and found["predicted"].min() >= 1.0


def test_without_a_rating_model_nothing_is_predicted() -> None:
    found = recommend(ENCODED, Recommender(ENCODER, "popularity", COUNTS, COUNTS, MATRIX), RecommendationOptions(k=3))
    assert found.columns == ["user", "rank", "item", "title", "score"]


def test_a_user_who_has_rated_nearly_all_has_a_short_list() -> None:
    found = recommend(ENCODED, RANKED, RecommendationOptions(k=5, users=(10,)))
    assert found["item"].to_list() == ["i7"]
    assert found["title"].to_list() == ["i7"]  # no frame of items: the id


def test_held_out_ratings_may_be_recommended() -> None:
    split = RatingSplit(kind="column", column="held", value=True)
    held = RATINGS.with_columns(held=(pl.col("user") == 10) & (pl.col("item") != "i0"))
    found = recommend(encoded_of(held, ENCODER, split), RANKED, RecommendationOptions(k=20, users=(10,)))
    assert sorted(found["item"]) == [f"i{k}" for k in range(1, 8)]


def test_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recommend(ENCODED, RANKED, RecommendationOptions(k=4))
    monkeypatch.setattr(lists, "BLOCK_SCORES", 27)
    blocks = recommend(ENCODED, RANKED, RecommendationOptions(k=4))
    assert blocks.drop("score").equals(whole.drop("score"))
    assert blocks["score"].to_list() == pytest.approx(whole["score"].to_list(), abs=1e-6)


def test_users_come_in_the_order_that_was_asked_for_and_an_unknown_one_is_named() -> None:
    found = recommend(ENCODED, RANKED, RecommendationOptions(k=2, users=(7, 2)))
    assert found["user"].to_list() == [7, 7, 2, 2]
    with pytest.raises(DataError, match=r"recommendation\.users names 99"):
        recommend(ENCODED, RANKED, RecommendationOptions(users=(1, 99)))


def test_the_lower_row_comes_first_of_equal_scores() -> None:
    scores = np.array([[1.0, 3.0, 1.0, 1.0, -np.inf], [-np.inf, -np.inf, 2.0, -np.inf, -np.inf]], dtype=np.float32)
    rows, values = top_items(scores, 3)
    assert rows.tolist() == [[2, 1, 3], [3, 0, 0]]
    assert values[0].tolist() == [3.0, 1.0, 1.0]
    assert top_items(scores, 9)[0].tolist() == [[2, 1, 3, 4, 0], [3, 0, 0, 0, 0]]


def test_many_ties_never_lose_the_best() -> None:
    scores = np.random.default_rng(0).integers(0, 6, (50, 30)).astype(np.float32)
    rows, _ = top_items(scores, 7)
    for of_user, found in zip(scores, rows, strict=True):
        order = sorted(range(30), key=lambda place: (-of_user[place], place))
        assert found.tolist() == [place + 1 for place in order[:7]]


def test_a_new_user_is_scored_as_a_row_and_rated_by_each_member() -> None:
    options, penalty = FoldInOptions(factors=0.5, biases=0.5), Penalty(factors=0.1, biases=0.1)
    rows, ratings = np.array([3, 5]), np.array([5.0, 1.0])
    rated = np.zeros(8)
    given = KnownRatings.by_user([0, 0], rows, ratings, 1)
    for network, weight in zip(MODEL.networks, MODEL.weights, strict=True):
        own = fold_in(network, given, network.user_vectors(np.array([0])), options, penalty)
        q, b = network.item_vectors(torch.as_tensor(np.arange(1, 9)))
        rated += weight * (network.mean + (own.factors @ q.T)[0] + own.biases + b).detach().numpy()
    row = np.zeros(8)
    row[[2, 4]] = 5 / 5, 1 / 5
    assert isinstance(RANKED.ranker, Ease)
    for recommender, scores in ((RANKED, row @ RANKED.ranker.matrix.numpy()), (PREDICTED, rated)):
        found = recommend_for_ratings(
            recommender, rows, ratings, 4, options=options, penalty=penalty, items=small_items()
        )
        order = [place for place in np.argsort(-scores) if place not in (2, 4)][:4]
        assert found["item"].to_list() == [ENCODER.items[place] for place in order]
        assert found["score"].to_list() == pytest.approx(scores[order].tolist(), abs=1e-5)
        assert found["predicted"].to_list() == pytest.approx(np.clip(rated[order], 1, 5).tolist(), abs=1e-5)
        assert found["rank"].to_list() == [1, 2, 3, 4]
