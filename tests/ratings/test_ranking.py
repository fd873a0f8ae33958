"""The choice of a ranker on an inner split, its bundle, cold items and users, and its evaluation with baselines."""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hand_made import COLUMNS, encoded_of, encoder_of, model_of, small_items, small_ratings

from embedline.errors import DataError
from embedline.pipelines.ratings import ranking
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.evaluation import evaluate_ranking
from embedline.pipelines.ratings.options import (
    FeatureOptions,
    FoldInOptions,
    Penalty,
    RankerOptions,
    RankingOptions,
    RecommendationOptions,
)
from embedline.pipelines.ratings.rankers import Ease, Popularity
from embedline.pipelines.ratings.ranking import (
    Recommender,
    fit_ranker,
    interaction_matrix,
    interaction_values,
    load_ranker,
)
from embedline.pipelines.ratings.ranking_metrics import measure_lists
from embedline.training.model_file import ModelBundle

SPLIT = RatingSplit(kind="random", fraction=0.25, seed=1)
RANKING = RankingOptions(k=3)
NETWORK = {"factors": 4, "weight_decay": 0.3, "epochs": 12, "batch_size": 16}
SMALL = RankerOptions(
    ease={"penalty": [1, 20]},
    als={"factors": 3, "penalty": [0.5], "iterations": 3},
    item_knn={"neighbours": [2, 5], "shrinkage": 0},
    compared=("ease", "als", "item_knn", "rating"),
    recency=0,
    factors=NETWORK,
)


ALS = {"factors": 3, "penalty": 0.5, "alpha": 1.0, "iterations": 3, "seed": 0}


def groups(n_users: int = 60, n_items: int = 24) -> pl.DataFrame:
    """Users of three groups choose items of their group and rate them 4 or 5; item 0 is everybody's."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        own = [item for item in range(1, n_items) if item % 3 == user % 3]
        for item in [*random.choice(own, 5, replace=False).tolist(), 0]:
            rows.append((user, item, float(random.integers(4, 6)), int(random.integers(1000))))
    return pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row")


RATINGS = groups()
TRAIN = subset(assign_splits(RATINGS, COLUMNS, SPLIT), "train")
ENCODER = fit_encoder(TRAIN, COLUMNS, (1.0, 5.0))
ENCODED = encode(RATINGS, ENCODER, COLUMNS, SPLIT)


def fitted(ranker: str = "auto", options: RankerOptions = SMALL, ratings: pl.DataFrame = RATINGS) -> ModelBundle:
    recommendation = RecommendationOptions(ranker=ranker)
    return fit_ranker(ratings, ENCODER, SPLIT, RANKING, recommendation, options)


def test_the_best_of_all_settings_on_the_inner_split_is_taken() -> None:
    bundle = fitted()
    trials = bundle.metrics["trials"]
    assert [trial["ranker"] for trial in trials] == ["ease"] * 2 + ["als"] + ["item_knn"] * 2 + ["popularity"]
    best = max(trials, key=lambda trial: trial["ndcg"])
    assert (bundle.config["ranker"], bundle.config["settings"]) == (best["ranker"], best["settings"])
    assert best["ranker"] != "popularity"
    # By hand: the first trial on the rows that the inner split leaves.
    inner = RatingSplit(kind="random", fraction=0.2, seed=0)
    rows = encode(TRAIN.drop("split"), ENCODER, COLUMNS, inner)
    matrix = interaction_matrix(rows, ENCODER)
    ease = Recommender(ENCODER, "ease", Ease.fit(matrix, penalty=1.0), Popularity.fit(matrix), matrix)
    assert trials[0]["ndcg"] == measure_lists(ease.scores, rows, ENCODER, RANKING).summary()["ndcg_at_3"]
    assert bundle.metrics["inner"] == {"kind": "random", "fraction": 0.2, "seed": 0}


def test_the_held_out_ratings_do_not_decide() -> None:
    held_out = assign_splits(RATINGS, COLUMNS, SPLIT)["split"] == "test"
    other = RATINGS.with_columns(rating=pl.when(held_out).then(1.0).otherwise(pl.col("rating")))
    first, second = fitted(), fitted(ratings=other)
    assert first.metrics["trials"] == second.metrics["trials"]
    assert all(first.weights[name].equal(value) for name, value in second.weights.items())


@pytest.mark.parametrize("kind", ["latest", "time"])
def test_a_split_by_time_is_tried_inside_as_it_is_outside(kind: str) -> None:
    split = RatingSplit(kind=kind, fraction=0.2)
    bundle = fit_ranker(RATINGS, ENCODER, split, RANKING, RecommendationOptions(), SMALL)
    assert bundle.metrics["inner"] == {"kind": kind, "fraction": 0.2}


@pytest.mark.parametrize("ranker", ["ease", "als", "item_knn", "factors", "popularity"])
def test_a_bundle_scores_as_what_was_fitted(ranker: str) -> None:
    bundle = ModelBundle.from_bytes(fitted(ranker).to_bytes())
    assert bundle.config["ranker"] == ranker
    matrix = interaction_matrix(ENCODED, ENCODER)
    fresh = ranking.fit(ranker, bundle.config["settings"], matrix, ENCODER)
    loaded = load_ranker(bundle, ENCODED)
    np.testing.assert_allclose(loaded.scores(np.arange(1, 61)), fresh.scores(matrix[1:]), atol=1e-6)
    # Somebody new with the ratings of user 7, seen or not, has the scores of user 7.
    own = ENCODED.filter((pl.col("user_row") == 7) & (pl.col("split") == "train"))
    new = load_ranker(bundle, None).new_user_scores(
        own["item_row"].to_numpy(), own["rating"].to_numpy(), FoldInOptions(), Penalty()
    )
    np.testing.assert_allclose(new, loaded.scores(np.array([7]))[0], atol=1e-5)


def sequences(n_users: int = 60, n_items: int = 30) -> pl.DataFrame:
    """Users go from one style to the next: what they chose lately says what they choose now."""
    random, rows = np.random.default_rng(0), []
    for user in range(n_users):
        for step in range(12):
            own = [item for item in range(n_items) if item % 3 == (user + step // 4) % 3]
            rows.append((user, int(random.choice(own)), 5.0, 100 * user + step))
    frame = pl.DataFrame(rows, schema=["user", "item", "rating", "timestamp"], orient="row")
    return frame.unique(["user", "item"], keep="last", maintain_order=True)


def test_late_choices_count_more_where_that_is_better_inside() -> None:
    ratings, split = sequences(), RatingSplit(kind="latest", fraction=0.15)
    encoder = fit_encoder(subset(assign_splits(ratings, COLUMNS, split), "train"), COLUMNS, (0.0, 5.0))
    encoded = encode(ratings, encoder, COLUMNS, split)
    options = SMALL.model_copy(update={"recency": (0.0, 1.0), "compared": ("ease",)})
    bundle = fit_ranker(ratings, encoder, split, RANKING, RecommendationOptions(), options)
    assert bundle.config["ranker"] == "ease" and bundle.config["settings"]["recency"] == 1.0
    recommender = load_ranker(ModelBundle.from_bytes(bundle.to_bytes()), encoded)
    train = encoded.filter(split="train")
    np.testing.assert_allclose(
        recommender.matrix[train["user_row"].to_numpy(), train["item_row"].to_numpy() - 1],
        1 / (1 + train["age"].to_numpy()),
        rtol=1e-6,
    )
    # The matrix that it learned from has all choices alike.
    plain = interaction_matrix(encoded, encoder)
    fresh = Ease.fit(plain, penalty=bundle.config["settings"]["penalty"])
    np.testing.assert_allclose(bundle.weights["ranker.matrix"], fresh.matrix, atol=1e-6)
    found = evaluate_ranking(encoded, recommender, {"als": {**ALS, "recency": 1.0}}, RANKING)
    ours, same = found["ndcg_at_3"], measure_lists(recommender.scores, encoded, encoder, RANKING).ndcg
    assert ours == same
    als = ranking.fit("als", ALS, plain, encoder)
    expected = measure_lists(lambda rows: als.scores(recommender.matrix[rows]), encoded, encoder, RANKING)
    assert found["rankers"]["als"]["ndcg_at_3"] == pytest.approx(expected.ndcg)
    groups = found["by_user_ratings"]
    assert sum(one["users"] for one in groups.values()) == found["ranked_users"]
    whole = sum(one["users"] * one["ndcg"] for one in groups.values()) / found["ranked_users"]
    assert whole == pytest.approx(ours)
    pairs = [one["relevant"] for one in found["by_item_ratings"].values()]
    assert sum(pairs) == len(encoded.filter(pl.col("split") == "test", pl.col("user_row") > 0))


def test_new_items_are_scored_by_what_ranks_hidden_ones_better() -> None:
    ratings = groups().with_columns(rating=pl.lit(5.0))
    items = pl.DataFrame({"item": range(30), "genres": [[f"g{k % 3}"] for k in range(30)]})  # 24 to 29 are new
    encoder = fit_encoder(ratings, COLUMNS, (0.0, 5.0), FeatureOptions(items=("genres",)), items)
    options = SMALL.model_copy(update={"compared": ("ease", "factors")})
    everything = RatingSplit(kind="none")
    bundle = fit_ranker(ratings, encoder, everything, RANKING, RecommendationOptions(ranker="ease"), options)
    trials = {trial["way"]: trial["ndcg"] for trial in bundle.metrics["cold_trials"]}
    assert set(trials) == {"regression", "factors"} and min(trials.values()) > 0.2
    assert bundle.config["cold"] == max(trials, key=lambda way: trials[way])
    recommender = load_ranker(bundle, encode(ratings, encoder, COLUMNS))
    users = np.arange(1, 61)
    plain, network = replace(recommender, cold=None), ranking.Factors.fit(recommender.matrix, encoder, **NETWORK)
    for one in (plain, replace(recommender, cold=network)):
        scores = one.scores(users)
        np.testing.assert_array_equal(scores[:, :24], plain.scores(users)[:, :24])  # the known items stay as they are
        best = 24 + scores[:, 24:].argmax(axis=1)
        assert (best % 3 == np.arange(60) % 3).mean() > 0.9
        assert np.isneginf(one.cold_scores(users)[:, :24]).all()


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"'ratings'.*'ranker'"):
        load_ranker(ModelBundle("ratings", {}, {}, {}), None)


def test_too_many_items_for_ease(caplog: pytest.LogCaptureFixture) -> None:
    few = SMALL.model_copy(update={"ease": SMALL.ease.model_copy(update={"max_items": 10})})
    with pytest.raises(DataError, match=r"24 items .*max_items"):
        fitted("ease", few)
    with caplog.at_level(logging.WARNING):
        assert "ease" not in {trial["ranker"] for trial in fitted("auto", few).metrics["trials"]}
    assert "max_items" in caplog.text


def test_values_of_ratings_and_of_events() -> None:
    stars: Any = encoder_of(small_ratings())
    np.testing.assert_allclose(interaction_values(np.array([1.0, 5.0]), stars), [0.2, 1.0])
    jester = stars.model_copy(update={"rating_range": (-10.0, 10.0)})
    np.testing.assert_allclose(interaction_values(np.array([-10.0, 0.0, 10.0]), jester), [0.0, 0.5, 1.0])
    counts = stars.model_copy(update={"rating_range": (0.0, 7.0), "columns": RatingColumns(rating=None)})
    np.testing.assert_allclose(interaction_values(np.array([1.0, 7.0]), counts), [math.log(2) / math.log(8), 1.0])


def cold() -> Recommender:
    """Films 0 to 7 with ratings, and film 8 of genre War without any."""
    ratings, items = small_ratings(), small_items()
    encoder = encoder_of(ratings, items, ("genres",))
    matrix = interaction_matrix(encoded_of(ratings, encoder), encoder)
    return Recommender(encoder, "ease", Ease.fit(matrix, penalty=1.0), Popularity.fit(matrix), matrix)


def test_an_item_without_ratings_is_scored_by_a_regression_on_features() -> None:
    recommender = cold()
    scores = recommender.scores(np.array([1, 4]))
    assert scores.shape == (2, 9)
    # A constant and the genres of each film; several genres of a film share a weight of 1.
    genres = small_items()["genres"].to_list()
    names = sorted({genre for one in genres for genre in one})
    features = np.array([[1.0, *((name in one) / math.sqrt(len(one)) for name in names)] for one in genres])
    known, gram = features[:8], features[:8].T @ features[:8] + ranking.FEATURE_PENALTY * np.eye(len(names) + 1)
    expected = features[8] @ np.linalg.solve(gram, known.T @ scores[:, :8].T)
    np.testing.assert_allclose(scores[:, 8], expected, atol=1e-6)


def test_with_too_many_features_such_items_are_not_ranked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ranking, "MOST_FEATURES", 2)
    recommender = cold()
    assert np.isneginf(recommender.scores(np.array([1]))[0, 8])
    assert "not ranked" in caplog.text


def test_a_user_without_ratings_is_shown_what_is_popular() -> None:
    recommender = cold()
    counts = np.bincount([int(item[1:]) for item in small_ratings()["item"]], minlength=8)
    np.testing.assert_array_equal(recommender.scores(np.array([0]))[0, :8], counts)


def test_the_ranker_stands_beside_other_rankers_and_baselines(caplog: pytest.LogCaptureFixture) -> None:
    bundle = fitted("ease")
    recommender = load_ranker(bundle, ENCODED, model_of(ENCODER))
    with caplog.at_level(logging.INFO):
        found = evaluate_ranking(ENCODED, recommender, bundle.config["candidates"], RANKING)
    assert found["ranker"] == "ease"
    assert set(found["rankers"]) == {"als", "item_knn", "predicted_rating"}
    assert set(found["baselines"]) == {"popularity", "popularity_relevant", "random"}
    expected = measure_lists(recommender.scores, ENCODED, ENCODER, RANKING).summary()
    assert {name: found[name] for name in expected} == expected
    assert found["ndcg_at_3_low"] < found["ndcg_at_3"] < found["ndcg_at_3_high"]
    popularity = found["baselines"]["popularity"]
    difference = popularity["differences"]["ndcg_at_3"]
    assert difference["difference"] == pytest.approx(found["ndcg_at_3"] - popularity["ndcg_at_3"])
    assert difference["verdict"] == "better" and found["beaten_by"] == []
    assert "popularity" in caplog.text and f"{popularity['ndcg_at_3']:.4f}" in caplog.text
    rated = found["rankers"]["predicted_rating"]
    assert (
        rated["ndcg_at_3"] == measure_lists(recommender.model.scores, ENCODED, ENCODER, RANKING).summary()["ndcg_at_3"]
    )


def test_a_ranker_no_better_than_popularity_says_so(caplog: pytest.LogCaptureFixture) -> None:
    bundle = fitted("popularity")
    with caplog.at_level(logging.WARNING):
        found = evaluate_ranking(ENCODED, load_ranker(bundle, ENCODED), {}, RANKING)
    assert "popularity.ndcg_at_3" in found["beaten_by"]
    assert found["baselines"]["popularity"]["differences"]["ndcg_at_3"]["verdict"] == "no difference"
    assert "popularity" in caplog.text


def test_the_predicted_rating_as_a_ranker_needs_the_model() -> None:
    bundle = fitted("rating")
    model = model_of(ENCODER)
    np.testing.assert_array_equal(
        load_ranker(bundle, ENCODED, model).scores(np.array([2, 5])), model.scores(np.array([2, 5]))
    )
    with pytest.raises(DataError, match=r"recommendation\.ranker"):
        load_ranker(bundle, ENCODED).scores(np.array([2]))


def test_nothing_relevant_inside_takes_the_first_ranker_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    low = RATINGS.with_columns(rating=pl.lit(2.0))
    with caplog.at_level(logging.WARNING):
        bundle = fit_ranker(low, ENCODER, SPLIT, RANKING, RecommendationOptions(), SMALL)
    assert bundle.config["ranker"] == "ease" and bundle.config["settings"] == {"penalty": 1.0}
    assert "nothing relevant" in caplog.text


@pytest.mark.parametrize("pairs", [[(1, 1)], [(1, item) for item in range(12)], [(user, 1) for user in range(12)]])
def test_one_user_or_one_item_is_ranked_or_refused_by_the_key(pairs: list[tuple[int, int]]) -> None:
    ratings = pl.DataFrame([(*pair, 5.0) for pair in pairs], schema=["user", "item", "rating"], orient="row")
    encoder = fit_encoder(ratings, COLUMNS, (1.0, 5.0))
    options = SMALL.model_copy(update={"compared": ("ease", "als", "item_knn", "factors")})
    everything = RatingSplit(kind="none")
    if len(pairs) == 1:
        with pytest.raises(DataError, match=r"rankers\.inner"):
            fit_ranker(ratings, encoder, everything, RANKING, RecommendationOptions(), options)
        return
    for wanted in ("auto", "ease", "als", "item_knn", "factors", "popularity"):
        bundle = fit_ranker(ratings, encoder, everything, RANKING, RecommendationOptions(ranker=wanted), options)
        scores = load_ranker(bundle, encode(ratings, encoder, COLUMNS)).scores(np.array([1]))
        assert scores.shape == (1, len(encoder.items)) and np.isfinite(scores).all()


def test_events_are_ranked_by_their_numbers() -> None:
    columns = RatingColumns(rating=None)
    again = pl.concat([RATINGS, RATINGS.filter(pl.col("item") == 0)]).drop("rating")  # everybody saw item 0 twice
    encoder = fit_encoder(subset(assign_splits(again, columns, SPLIT), "train"), columns, "auto")
    assert encoder.rating_range == (0.0, 2.0)
    encoded = encode(again, encoder, columns, SPLIT)
    bundle = fit_ranker(again, encoder, SPLIT, RANKING, RecommendationOptions(), SMALL)
    recommender = load_ranker(bundle, encoded)
    np.testing.assert_allclose(np.unique(recommender.matrix.data), [math.log(2) / math.log(3), 1.0], rtol=1e-6)
    found = evaluate_ranking(encoded, recommender, bundle.config["candidates"], RankingOptions(k=3, relevant=99.0))
    assert found["ranked_users"] == len(encoded.filter(pl.col("split") == "test")["user_row"].unique())
    assert found["baselines"]["popularity"]["differences"]["ndcg_at_3"]["verdict"] == "better"
    assert "popularity_relevant" not in found["baselines"] and "predicted_rating" not in found["rankers"]


def test_one_number_in_yaml_is_a_list_of_one() -> None:
    options = RankerOptions.model_validate({"ease": {"penalty": 200}, "als": {"factors": 8, "alpha": 0}})
    assert (options.ease.penalty, options.als.factors, options.als.alpha) == ((200.0,), (8,), (0.0,))
    with pytest.raises(ValueError, match=r"ease\.penalty"):
        RankerOptions.model_validate({"ease": {"penalty": [0]}})
