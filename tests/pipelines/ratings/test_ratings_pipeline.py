"""The learner's pipelines, run by Kedro on small ratings of either engine, and the figures that they report."""

import logging
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    ColdStartOptions,
    CrossValidationOptions,
    FeatureOptions,
    FoldInOptions,
    Penalty,
    RankerOptions,
    RankingOptions,
    RatingNetwork,
    RatingRange,
    RatingReport,
    RatingsTraining,
    RecommendationOptions,
)
from embedline.pipelines.ratings.pipeline import create_cross_validation_pipeline, create_pipeline, nodes
from embedline.training.options import FinderOptions

ENGINES = pytest.mark.parametrize("engine", ["polars", "pandas"])
N_USERS, N_ITEMS, N_ROWS = 40, 30, 800
SETTINGS: dict[str, Any] = {
    "columns": RatingColumns(user="userId", item="movieId", timestamp=None, title="name"),
    "rating_range": RatingRange((0.5, 6.0)),
    "split": RatingSplit(kind="random", fraction=0.25, seed=3),
    "features": FeatureOptions(items=("kind",), users=("team",)),
    "network": RatingNetwork(factors=4, init_std=0.1),
    "training": RatingsTraining(
        epochs=12, batch_size=32, lr=0.02, penalty=Penalty(factors=0.02), seeds=(1, 2), device="cpu", precision="fp32"
    ),
    "finder": FinderOptions(low=1e-4, high=1.0, steps=12),
    "baselines": BaselineOptions(),
    "ranking": RankingOptions(k=3, relevant=3.5),
    "cold_start": ColdStartOptions(given=(1, 3), fraction=0.2),
    "fold_in": FoldInOptions(),
    "recommendation": RecommendationOptions(k=4, users="all", neighbours=3),
    "rankers": RankerOptions(als={"factors": 4, "penalty": 1.0}),
    "report": RatingReport(biases=3, map_items=8, crosstab=5),
    "cross_validation": CrossValidationOptions(column="fold"),
}


class Kept(MemoryDataset):
    """Keeps what a runner releases after its last use, so that a test may look at it."""

    def _release(self) -> None:
        pass


def _frames(engine: str) -> dict[str, Any]:
    """Ratings of pairs of a taste: teams like the kinds of their number."""
    random = np.random.default_rng(0)
    pairs = random.permutation(N_USERS * N_ITEMS)[:N_ROWS]
    user, item = pairs // N_ITEMS, pairs % N_ITEMS
    rating = 3.0 + (user % 3 == item % 3) + 0.3 * (item % 2) + 0.2 * random.normal(size=N_ROWS)
    names, kinds = [f"film {k}" for k in range(N_ITEMS)], [f"k{k % 3}" for k in range(N_ITEMS)]
    frames = {
        "ratings": pl.DataFrame({"userId": user, "movieId": item, "rating": rating, "fold": np.arange(N_ROWS) % 2}),
        "items": pl.DataFrame({"movieId": np.arange(N_ITEMS), "name": names, "kind": kinds}),
        "users": pl.DataFrame({"userId": np.arange(N_USERS), "team": [f"t{k % 3}" for k in range(N_USERS)]}),
    }
    return frames if engine == "polars" else {name: frame.to_pandas() for name, frame in frames.items()}


def _catalog(engine: str, settings: dict[str, Any], frames: dict[str, str]) -> DataCatalog:
    catalog = DataCatalog({f"params:films.{name}": MemoryDataset(value) for name, value in settings.items()})
    for name, frame in _frames(engine).items():
        if name in frames:
            catalog[frames[name]] = MemoryDataset(frame)
    return catalog


def _outputs(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, Any]:
    for name in pipeline.all_outputs():
        catalog[name] = Kept(copy_mode="assign")
    SequentialRunner().run(pipeline, catalog)
    return {name.removeprefix("films."): catalog.load(name) for name in pipeline.all_outputs()}


@cache
def _run(engine: str) -> dict[str, Any]:
    catalog = _catalog(engine, SETTINGS, {"ratings": "raw.ratings", "items": "films.items", "users": "films.users"})
    return _outputs(create_pipeline("films", users=True, ratings="raw.ratings"), catalog)


def test_artifacts_have_the_names_of_the_catalog() -> None:
    assert set(_run("polars")) == {
        *("encoder", "encoded", "learning_rates", "model", "ranker", "history", "predictions", "metrics"),
        "cold_start",
        *("biases", "neighbours", "recommendations"),
        *("training_plot", "learning_rate_plot", "error_plot", "cold_start_plot"),
        *("bias_plot", "map_plot", "crosstab_plot"),
    }


def test_metrics_hold_what_the_report_needs() -> None:
    outputs = _run("polars")
    metrics, predictions = outputs["metrics"], outputs["predictions"]
    assert metrics["train_rows"] + metrics["test_rows"] == N_ROWS
    assert metrics["test_rows"] == len(predictions)
    error = (predictions["predicted"] - predictions["actual"]).to_numpy()
    assert metrics["mse"] == pytest.approx(np.mean(error**2))
    assert metrics["rmse"] == pytest.approx(np.mean(error**2) ** 0.5)
    assert metrics["mae"] == pytest.approx(np.abs(error).mean())
    for name in ("global_mean", "damped_bias"):
        theirs = (predictions[name] - predictions["actual"]).to_numpy()
        assert metrics["baselines"][name]["mse"] == pytest.approx(np.mean(theirs**2))
    ranking = metrics["ranking"]
    for ranked in (ranking, *ranking["rankers"].values(), *ranking["baselines"].values()):
        assert 0.0 <= ranked["precision_at_3"] <= 1.0
        assert {"recall_at_3", "ndcg_at_3", "mrr_at_3", "coverage", "novelty", "diversity"} <= set(ranked)
        assert ranked["ranked_users"] == ranking["ranked_users"]
    assert metrics["mse"] < 0.5 * metrics["baselines"]["damped_bias"]["mse"]  # tastes are no biases
    # Who rates what is random here, and the rating alone says something: the inner split finds that out.
    assert ranking["ranker"] == "rating" and ranking["beaten_by"] == []
    assert ranking["baselines"]["popularity"]["differences"]["ndcg_at_3"]["verdict"] == "better"
    assert metrics["beaten_by"] == []
    assert (metrics["members"], metrics["epochs"], metrics["device"]) == (2, 12, "cpu")


def test_predictions_are_the_held_out_rows_in_their_order() -> None:
    outputs, ratings = _run("polars"), _frames("polars")["ratings"]
    held_out = np.random.default_rng(3).random(N_ROWS) < 0.25
    predictions, rows, train = outputs["predictions"], ratings.filter(held_out), ratings.filter(~held_out)
    assert predictions.columns == [
        *("user", "item", "actual", "predicted", "global_mean", "damped_bias", "user_ratings", "item_ratings")
    ]
    assert predictions.select("user", "item").rows() == rows.select("userId", "movieId").rows()
    assert predictions["actual"].to_list() == pytest.approx(rows["rating"].to_list(), abs=1e-6)
    assert predictions["global_mean"].to_list() == pytest.approx([train["rating"].mean()] * len(rows), abs=1e-6)
    for mine, theirs in (("user", "userId"), ("item", "movieId")):
        counts = dict(train[theirs].value_counts().iter_rows())
        assert predictions[f"{mine}_ratings"].to_list() == [counts.get(one, 0) for one in predictions[mine]]


def test_recommendations_have_titles_and_nothing_from_training() -> None:
    outputs, ratings = _run("polars"), _frames("polars")["ratings"]
    train = ratings.filter(np.random.default_rng(3).random(N_ROWS) >= 0.25)
    rated = set(train.select("userId", "movieId").iter_rows())
    found = outputs["recommendations"]
    assert not rated & set(found.select("user", "item").iter_rows())
    assert found["title"].to_list() == [f"film {item}" for item in found["item"]]
    assert found.group_by("user").len()["len"].to_list() == [4] * N_USERS
    liked = found.filter(pl.col("rank") == 1)
    assert (liked["user"] % 3 == liked["item"] % 3).mean() > 0.9  # what the team likes


def test_the_cold_start_knows_teams_and_kinds() -> None:
    trial = _run("polars")["cold_start"]
    assert trial["beaten_by"] == []
    assert trial["new_items"]["mse"] < 0.5 * trial["new_items"]["no_features"]["mse"]
    assert list(trial["new_users"]["given"]) == ["0", "1", "3"]
    # A team says nearly all of its users: without any rating the model does well already.
    given = trial["new_users"]["given"]
    assert given["0"]["mse"] < 0.6 * given["3"]["baselines"]["damped_bias"]["mse"]
    found = _run("polars")["neighbours"]  # of one kind
    assert found.group_by("item").len()["len"].to_list() == [3] * N_ITEMS
    assert (found["item"] % 3 == found["neighbour"] % 3).mean() > 0.9


def test_a_source_of_ratings_alone() -> None:
    columns = RatingColumns(user="userId", item="movieId", timestamp=None)
    settings = SETTINGS | {"features": FeatureOptions(), "columns": columns}
    pipeline = create_pipeline("films", items=False)
    assert pipeline.inputs() - {f"params:films.{name}" for name in settings} == {"films.ratings"}
    outputs = _outputs(pipeline, _catalog("polars", settings, {"ratings": "films.ratings"}))
    assert outputs["biases"]["title"].to_list() == [str(k) for k in range(N_ITEMS)]
    assert "no_features" not in outputs["cold_start"]["new_items"]


def test_events_without_ratings_are_recommended_and_measured() -> None:
    """Who watches what follows the team; some watch a film twice."""
    random = np.random.default_rng(2)
    own = [(user, item) for user in range(N_USERS) for item in range(N_ITEMS) if user % 3 == item % 3]
    views = [own[place] for place in random.permutation(len(own))[:280]]
    frame = pl.DataFrame([*views, *views[:40]], schema=["userId", "movieId"], orient="row")
    columns = RatingColumns(user="userId", item="movieId", rating=None, timestamp=None, title="name")
    names = ("split", "rating_range", "features", "ranking", "recommendation", "rankers")
    settings = {"columns": columns, **{name: SETTINGS[name] for name in names}}
    settings |= {"rating_range": RatingRange(), "features": FeatureOptions(items=("kind",))}
    pipeline = create_pipeline("films", events=True)
    read = {name.removeprefix("params:films.") for name in pipeline.inputs() if name.startswith("params:")}
    assert read == set(settings)
    catalog = _catalog("polars", settings, {"items": "films.items"})
    catalog["films.ratings"] = MemoryDataset(frame)
    outputs = _outputs(pipeline, catalog)
    assert set(outputs) == {"encoder", "encoded", "ranker", "metrics", "recommendations"}
    assert outputs["metrics"]["train_rows"] + outputs["metrics"]["test_rows"] == 280
    ranking = outputs["metrics"]["ranking"]
    assert ranking["ranker"] in ("ease", "als", "item_knn", "factors") and ranking["beaten_by"] == []
    assert ranking["ndcg_at_3"] > 2 * ranking["baselines"]["popularity"]["ndcg_at_3"]
    best = outputs["recommendations"].filter(pl.col("rank") == 1)
    assert (best["user"] % 3 == best["item"] % 3).mean() > 0.9
    assert best["title"].to_list() == [f"film {item}" for item in best["item"]]
    with pytest.raises(DataError, match=r"columns\.rating is null"):
        nodes.train(outputs["encoded"], outputs["encoder"], SETTINGS["network"], SETTINGS["training"])


def test_cross_validation_reports_every_fold() -> None:
    catalog = _catalog("polars", SETTINGS, {name: f"films.{name}" for name in ("ratings", "items", "users")})
    folds = _outputs(create_cross_validation_pipeline("films", users=True), catalog)["folds"]
    assert [fold["value"] for fold in folds["folds"]] == [0, 1]
    assert [fold["rows"] for fold in folds["folds"]] == [N_ROWS // 2] * 2
    assert folds["mean_rmse"] == pytest.approx(np.mean([fold["rmse"] for fold in folds["folds"]]))
    assert folds["mean_mse"] < folds["baselines"]["damped_bias"]["mean_mse"]


def test_nodes_carry_the_tags_of_the_other_learners() -> None:
    pipeline = create_pipeline("films")
    tags = {node.name: node.tags for node in pipeline.nodes}
    assert {tag for tagged in tags.values() for tag in tagged} == {"encode", "train", "evaluate", "predict", "plot"}
    assert (
        tags["films.measure_cold_start"] == {"evaluate"}
        and tags["films.recommend"] == {"predict"}
        and tags["films.fit_ranker"] == {"train"}
    )


def test_a_baseline_that_wins_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    outputs = _run("polars")
    spoiled = outputs["predictions"].with_columns(predicted=pl.lit(1.0))
    given = [outputs[name] for name in ("encoded", "model", "ranker")]
    with caplog.at_level(logging.WARNING):
        metrics = nodes.evaluate(spoiled, *given, SETTINGS["ranking"])
    assert metrics["beaten_by"] == ["global_mean.mse", "damped_bias.mse"]
    assert any("loses to damped_bias" in record.getMessage() for record in caplog.records)


def test_a_ceiling_stands_beside_the_metrics() -> None:
    outputs, ceiling = _run("polars"), {"mse": 0.01, "rmse": 0.1, "accuracy": 1.0}
    given = [outputs[name] for name in ("predictions", "encoded", "model", "ranker")]
    metrics = nodes.evaluate(*given, SETTINGS["ranking"], ceiling)
    assert metrics["ceiling"] == {"mse": 0.01, "rmse": 0.1}
    assert "ceiling" not in outputs["metrics"]  # a source of one's own, whose law nobody knows
    own, known = create_pipeline("films"), create_pipeline("films", ceiling="law.ceiling")
    assert known.inputs() - own.inputs() == {"law.ceiling"} and own.inputs() < known.inputs()


def test_a_rating_that_nothing_reaches_and_no_rating_to_evaluate_name_the_key() -> None:
    outputs, none, ratings = _run("polars"), RatingSplit(kind="none"), _frames("polars")["ratings"]
    made, columns, baselines = outputs["model"], SETTINGS["columns"], SETTINGS["baselines"]
    with pytest.raises(DataError, match=r"ranking\.relevant 7 .* rating_range, 6"):
        nodes.evaluate(
            outputs["predictions"], outputs["encoded"], made, outputs["ranker"], RankingOptions(relevant=7.0)
        )
    encoded = nodes.encode(ratings, outputs["encoder"], columns, none)
    with pytest.raises(DataError, match=r"split\.kind 'none'"):
        nodes.predict(ratings, encoded, made, columns, none, baselines)


@ENGINES
def test_nodes_leave_their_inputs_as_they_are(engine: str) -> None:
    frames, untouched = _frames(engine), _frames(engine)
    settings = [SETTINGS[name] for name in ("columns", "split", "rating_range", "features")]
    nodes.fit_encoder(frames["ratings"], *settings, frames["items"], frames["users"])
    assert all(frames[name].equals(untouched[name]) for name in frames)
