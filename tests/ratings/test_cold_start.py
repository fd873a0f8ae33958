"""The cold start: who is held out, what is predicted from what, and that metrics are of the same rows."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hand_made import encoded_of, encoder_of, model_of, small_items, small_ratings
from simulated_ratings import GENRES, items_table, ratings_table

from embedline.errors import DataError
from embedline.pipelines.ratings import cold_start
from embedline.pipelines.ratings.cold_start import (
    RankingSettings,
    hold_out,
    measure_cold_start,
    measure_items,
    measure_rankings,
    measure_users,
    popularity_of_features,
)
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.cross_validation import ModelSettings
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.evaluation import Biases, fit_biases
from embedline.pipelines.ratings.fold_in import fold_in
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.network import Vectors
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    ColdStartOptions,
    FeatureOptions,
    FoldInOptions,
    Penalty,
    RankerOptions,
    RankingOptions,
    RatingNetwork,
    RatingsTraining,
    RecommendationOptions,
)

COLUMNS, FOLD_IN, PENALTY = RatingColumns(), FoldInOptions(factors=0.5, biases=2.0), Penalty(factors=0.1, biases=0.1)
PULL = Penalty(factors=0.02, biases=0.005)
TRAINING = RatingsTraining(epochs=15, batch_size=32, lr=0.02, penalty=PULL, seeds=(0,), device="cpu", precision="fp32")


class TestHoldOut:
    RATINGS = ratings_table()

    def test_parts_share_no_user_and_no_item_that_is_away(self) -> None:
        trial = hold_out(self.RATINGS, COLUMNS, ColdStartOptions(fraction=0.2, seed=1))
        known_users, known_items = set(trial.known["user"]), set(trial.known["item"])
        away_users = set(trial.of_users["user"])
        away_items = set(trial.of_items["item"])
        assert (len(away_users), len(away_items)) == (12, 8)  # a fifth of 60 and of 40
        assert not away_users & known_users and not away_items & known_items
        assert set(trial.of_items["user"]) <= known_users
        assert set(trial.of_users["item"]) <= known_items
        crossed = self.RATINGS.filter(pl.col("user").is_in(away_users) & pl.col("item").is_in(away_items))
        assert sum(map(len, trial)) + len(crossed) == len(self.RATINGS)

    def test_an_item_that_only_held_out_users_rated_is_not_known(self) -> None:
        pairs = [(user, item) for user in range(8) for item in range(6)] + [(0, 99), (77, 1)]
        ratings = pl.DataFrame({"user": [u for u, _ in pairs], "item": [i for _, i in pairs], "rating": [3.0] * 50})
        alone = 0
        for seed in range(12):
            trial = hold_out(ratings, COLUMNS, ColdStartOptions(fraction=0.25, seed=seed))
            assert set(trial.of_users["item"]) <= set(trial.known["item"])
            assert set(trial.of_items["user"]) <= set(trial.known["user"])
            alone += 0 in trial.of_users["user"] and 99 not in trial.known["item"]
        assert alone  # of user 0's ratings that of item 99 went nowhere

    def test_nothing_left_is_said_with_the_key(self) -> None:
        ratings = pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [3.0, 4.0]})
        with pytest.raises(DataError, match=r"cold_start\.fraction 0\.9 .* none to train"):
            hold_out(ratings, COLUMNS, ColdStartOptions(fraction=0.9))


RATINGS = small_ratings()
OF_NEW_USERS = RATINGS.filter(pl.col("user") <= 4)
KNOWN = RATINGS.filter((pl.col("user") > 4) & ~pl.col("item").is_in(["i2", "i5"]))
OF_NEW_ITEMS = RATINGS.filter((pl.col("user") > 4) & pl.col("item").is_in(["i2", "i5"]))
BASELINES = BaselineOptions()


def trained(weights: tuple[float, ...] = (1.0,), **options: Any) -> tuple[RatingModel, pl.DataFrame, Biases]:
    """A random model of the known ratings, those encoded, and their damped biases."""
    encoder = encoder_of(KNOWN, **options)
    encoded = encoded_of(KNOWN, encoder)
    return model_of(encoder, weights), encoded, fit_biases(encoded, encoder, BASELINES)


def mse(predicted: Any, actual: Any) -> float:
    return float(np.mean((np.clip(predicted, 1.0, 5.0) - np.asarray(actual)) ** 2))


class TestNewItems:
    def test_each_way_of_predicting(self) -> None:
        model, encoded, biases = trained((0.75, 0.25), items=small_items(), features=("genres",))
        encoder = model.encoder
        found = measure_items(OF_NEW_ITEMS, model, encoded, biases, BASELINES)
        assert (found["rows"], found["items"]) == (len(OF_NEW_ITEMS), 2)
        assert found["users"] == OF_NEW_ITEMS["user"].n_unique()
        actual = OF_NEW_ITEMS["rating"].to_numpy()
        counts = np.bincount(encoded["item_row"].to_numpy(), minlength=len(encoder.items) + 1)
        predicted: dict[str, list[float]] = {"no_features": [], "features": [], "features_and_average": []}
        for user, item, _ in OF_NEW_ITEMS.iter_rows():
            sums = dict.fromkeys(predicted, 0.0)
            for network, weight in zip(model.networks, model.weights, strict=True):
                p = network.users.own[encoder.users.index(user) + 1].detach().numpy()
                features = encoder.item_features.columns[0].levels
                codes = [features.index(genre) + 1 for genre in small_items()["genres"][int(item[1:])]]
                g = network.items.feature[codes].detach().numpy().sum(axis=0) / np.sqrt(len(codes))
                average = (counts / len(KNOWN)) @ network.items.own.detach().numpy()
                ways = {"no_features": 0 * g, "features": g, "features_and_average": g + average}
                for way, q in ways.items():
                    sums[way] += weight * (network.mean + p[:-1] @ q[:-1] + p[-1] + q[-1])
            for way, value in sums.items():
                predicted[way].append(value)
        assert found["mse"] == pytest.approx(mse(predicted["features"], actual), abs=1e-5)
        assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)
        for way in ("no_features", "features_and_average"):
            assert found[way]["mse"] == pytest.approx(mse(predicted[way], actual), abs=1e-5)

    def test_without_features_the_unknown_item_is_all_there_is_beside_the_baselines(self) -> None:
        model, encoded, biases = trained()
        found = measure_items(OF_NEW_ITEMS, model, encoded, biases, BaselineOptions(user_damping=2.0))
        rows, actual = model.encoder.user_rows(OF_NEW_ITEMS["user"]), OF_NEW_ITEMS["rating"].to_numpy()
        assert found["mse"] == pytest.approx(mse(model.predict(rows, np.zeros_like(rows)), actual), abs=1e-6)
        assert not {"no_features", "features_and_average"} & set(found)
        overall = KNOWN["rating"].mean()
        of_users = KNOWN.group_by("user").agg((pl.col("rating") - overall).sum() / (pl.len() + 2.0))
        means = OF_NEW_ITEMS.join(of_users, on="user", suffix="_bias", maintain_order="left")["rating_bias"] + overall
        assert found["baselines"]["user_mean"]["mse"] == pytest.approx(mse(means.to_numpy(), actual))
        assert found["baselines"]["damped_bias"]["mse"] == pytest.approx(mse(biases.mean + biases.user[rows], actual))


class TestNewUsers:
    def test_the_given_ratings_are_the_same_for_every_method_and_never_predicted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, _, biases = trained((0.5, 0.5))
        encoder = model.encoder
        seen: list[Any] = []

        def spy(network: Any, given: Any, base: Any, *settings: Any) -> Vectors:
            seen.append(given)
            return fold_in(network, given, base, *settings)

        monkeypatch.setattr(cold_start, "fold_in", spy)
        rows = OF_NEW_USERS.filter(pl.col("item").is_in(list(encoder.items)))
        found = measure_users(rows, model, biases, BASELINES, FOLD_IN, PENALTY, ColdStartOptions(given=(1, 3), seed=4))
        counts = rows["user"].value_counts().sort("user")
        enough = [user for user, count in counts.iter_rows() if count > 3]
        assert found["users"] == len(enough) > 1
        assert found["users_left_out"] == len(counts) - len(enough)
        assert found["rows"] == sum(count - 3 for _, count in counts.iter_rows() if count > 3)
        assert list(found["given"]) == ["0", "1", "3"]

        new = counts["user"].to_list()
        by_number = {len(given.user) // len(enough): given for given in seen}
        assert sorted(by_number) == [0, 1, 3]
        pairs = {
            n: {(new[user], encoder.items[item - 1], rating) for user, item, rating in zip(*given[:3], strict=True)}
            for n, given in by_number.items()
        }
        assert pairs[1] < pairs[3]
        asked = [row for row in rows.iter_rows() if row[0] in enough and row not in pairs[3]]
        assert len(asked) == found["rows"]
        for n, given in by_number.items():
            outputs = 0.0
            places = np.array([new.index(user) for user, _, _ in asked])
            items = np.array([encoder.items.index(item) + 1 for _, item, _ in asked])
            for network in model.networks:
                nobody = network.user_vectors(np.zeros(len(new), dtype=int))
                own = fold_in(network, given, nobody, FOLD_IN, PENALTY)
                q = network.items.own.detach().numpy()[items]
                p = own.factors.numpy()[places]
                outputs += 0.5 * (network.mean + (p * q[:, :-1]).sum(axis=1) + own.biases.numpy()[places] + q[:, -1])
            actual = [rating for _, _, rating in asked]
            assert found["given"][str(n)]["mse"] == pytest.approx(mse(outputs, actual), abs=1e-5)
            theirs = []
            for user, item, _ in asked:
                own_given = [(i, r) for u, i, r in pairs[n] if u == user]
                residual = [r - biases.mean - biases.item[encoder.items.index(i) + 1] for i, r in own_given]
                theirs.append(biases.mean + biases.item[encoder.items.index(item) + 1] + sum(residual) / (n + 5.0))
            assert found["given"][str(n)]["baselines"]["damped_bias"]["mse"] == pytest.approx(mse(theirs, actual))

    def test_too_few_ratings_are_said_with_the_key(self) -> None:
        model, _, biases = trained()
        rows, options = OF_NEW_USERS.filter(pl.col("item").is_in(KNOWN["item"])), ColdStartOptions(given=(1, 50))
        with pytest.raises(DataError, match=r"cold_start\.given takes 50"):
            measure_users(rows, model, biases, BASELINES, FOLD_IN, PENALTY, options)


SETTINGS = ModelSettings(
    columns=COLUMNS,
    network=RatingNetwork(factors=6, init_std=0.1),
    training=TRAINING,
    baselines=BASELINES,
    rating_range=(0.0, 6.0),
    features=FeatureOptions(items=("genres",)),
    items=items_table(),
)


LISTS = RankingSettings(
    RankingOptions(k=3, relevant=4.0),
    RecommendationOptions(),
    RankerOptions(
        compared=("ease", "factors", "rating"),
        ease={"penalty": 10},
        factors={"factors": 8, "weight_decay": [0.1, 1.0], "batch_size": 16},
    ),
)


def choices(n_users: int = 90, n_items: int = 60) -> pl.DataFrame:
    """Users choose films of the genre of their number, and rate all of them 5; most choose item 101 as well."""
    random, rows = np.random.default_rng(4), []
    for user in range(n_users):
        own = [item for item in range(1, n_items) if item % 3 == user % 3]
        rows += [(user, 101 + item, 5.0) for item in random.choice(own, 12, replace=False).tolist()]
        rows += [(user, 101, 5.0)] if random.random() < 0.8 else []
    return pl.DataFrame(rows, schema=["user", "item", "rating"], orient="row")


def test_new_items_are_ranked_by_genre_and_new_users_by_a_few_choices() -> None:
    items = pl.DataFrame({"item": 101 + np.arange(60), "genres": [[GENRES[k % 3]] for k in range(60)]})
    users = pl.DataFrame({"user": np.arange(90), "taste": [GENRES[k % 3] for k in range(90)]})
    features = FeatureOptions(items=("genres",), users=("taste",))
    encoder_settings, options = (
        (COLUMNS, (0.0, 5.0), features, items, users),
        ColdStartOptions(fraction=0.2, given=(1, 3)),
    )
    trial = hold_out(choices(), COLUMNS, options)
    encoder = fit_encoder(trial.known, *encoder_settings)
    encoded = encode(trial.known, encoder, COLUMNS)
    found = measure_rankings(trial, encoded, encoder, LISTS, options)
    new, main = found["new_items"], "ndcg_at_3"
    assert (
        new["items"] == trial.of_items["item"].n_unique() and new["ranked_users"] == trial.of_items["user"].n_unique()
    )
    chance = new["baselines"]["random"][main]
    assert new[main] > 1.5 * chance and new["baselines"]["regression"][main] > 1.5 * chance
    # Films of all genres are chosen as often: their popularity says nothing of what one user chooses.
    assert new["baselines"]["popularity_of_features"][main] < 0.8 * new[main]
    assert new[f"{main}_low"] < new[main] < new[f"{main}_high"]
    given = found["new_users"]["given"]
    assert list(given) == ["0", "1", "3"] and "new_users.given.3.popularity" not in found["beaten_by"]
    assert all(one["ranked_users"] == trial.of_users["user"].n_unique() for one in given.values())
    assert given["3"][main] > 1.5 * given["3"]["baselines"]["popularity"][main]
    if found["cold"] == "factors":  # it knows the taste of somebody without a choice
        assert given["0"]["baselines"]["factors"][main] > 1.5 * given["0"][main]


def test_the_popularity_of_features_by_hand() -> None:
    ratings, items = small_ratings(), small_items()
    encoder = encoder_of(ratings, items, ("genres",))
    counts = np.arange(8, dtype=np.float64)
    genres = items["genres"].to_list()
    weight = [{genre: 1 / np.sqrt(len(one)) for genre in one} for one in genres]
    mean = {
        genre: sum(w.get(genre, 0.0) * n for w, n in zip(weight, counts, strict=False))
        / sum(w.get(genre, 0.0) for w in weight[:8])
        for genre in {genre for one in genres[:8] for genre in one}
    }
    expected = [np.mean([mean[genre] for genre in one]) for one in genres]
    np.testing.assert_allclose(popularity_of_features(encoder, counts), expected, rtol=1e-5)


def test_the_true_effects_are_found_where_the_baselines_cannot_see_them(caplog: pytest.LogCaptureFixture) -> None:
    split, fold_in_options = RatingSplit(kind="random", fraction=0.1, seed=1), FoldInOptions(factors=1.0, biases=1.0)
    with caplog.at_level(logging.WARNING):
        found = measure_cold_start(ratings_table(), split, ColdStartOptions(seed=2), fold_in_options, SETTINGS, LISTS)
    assert found["beaten_by"] == [] and not caplog.records
    assert 1300 < found["known_ratings"] < 1500  # 0.9 of the rows, 0.9 of the users, 0.9 of the items
    items, users = found["new_items"], found["new_users"]
    # Genres decide what an item's rating is, up to the noise of 0.3 and the two genres of every fourth item.
    assert items["mse"] < 0.6 * min(one["mse"] for one in items["baselines"].values())
    given = [users["given"][n]["mse"] for n in ("0", "1", "3", "5", "10")]
    assert given[4] < given[2] < given[0]
    assert given[4] < 0.6 * users["given"]["10"]["baselines"]["damped_bias"]["mse"]


def test_a_model_that_has_learned_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    idle = replace(SETTINGS, training=TRAINING.model_copy(update={"lr": 1e-9, "epochs": 1}))
    none, stiff = RatingSplit(kind="none"), FoldInOptions(factors=1e6, biases=1e6)
    with caplog.at_level(logging.WARNING):
        found = measure_cold_start(ratings_table(), none, ColdStartOptions(), stiff, idle, LISTS)
    assert {"new_items.damped_bias", "new_users.given.10.damped_bias"} <= set(found["beaten_by"])
    assert any("loses to damped_bias" in record.getMessage() for record in caplog.records)
