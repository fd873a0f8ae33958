"""Ratings and texts tuned on rows inside the training part."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, assign_splits
from embedline.pipelines.ratings.cross_validation import ModelSettings, cross_validate
from embedline.pipelines.ratings.options import (
    BaselineOptions,
    CrossValidationOptions,
    FeatureOptions,
    RatingNetwork,
    RatingRange,
    RatingsTraining,
)
from embedline.pipelines.text.options import Classes, ClassifierOptions, ClassifierTraining
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.pipelines.tuning import nodes, texts
from embedline.pipelines.tuning.options import TuneOptions

COLUMNS = RatingColumns(timestamp="time", title=None)
NETWORK = RatingNetwork(factors=3)
TRAINING = RatingsTraining.model_validate(
    {"epochs": 2, "batch_size": 32, "lr": 0.01, "seeds": [0, 1], "device": "cpu", "precision": "fp32"}
)
LATEST = RatingSplit(kind="latest", n=2)


def ratings() -> pl.DataFrame:
    random = np.random.default_rng(0)
    user, item = (each.ravel() for each in np.meshgrid(np.arange(20), np.arange(15)))
    stars = np.clip(np.round(3 + (user % 3) - (item % 4) / 2 + 0.4 * random.normal(size=len(user))), 1, 5)
    return pl.DataFrame({"user": user, "item": item, "rating": stars, "time": random.permutation(len(user))})


def tune(frame: pl.DataFrame, split: RatingSplit = LATEST, **changes: Any) -> tuple[pl.DataFrame, str]:
    space = {"training.lr": {"low": 0.003, "high": 0.1, "log": True}, "network.factors": {"low": 2, "high": 5}}
    options = TuneOptions.model_validate({"trials": 4, "space": space, **changes})
    return nodes.tune_ratings(
        frame, COLUMNS, split, RatingRange((1, 5)), FeatureOptions(), NETWORK, TRAINING, BaselineOptions(), options
    )


def test_the_untuned_loss_is_that_of_folds_of_the_training_ratings() -> None:
    trials, _ = tune(ratings(), trials=1, inner={"folds": 3})
    learned = assign_splits(ratings(), COLUMNS, LATEST).filter(pl.col("split") == "train").drop("split")
    fold = np.random.default_rng(0).permutation(len(learned)) % 3
    training = TRAINING.model_copy(update={"seeds": (0,)})
    fixed = ModelSettings(COLUMNS, NETWORK, training, BaselineOptions(), (1, 5), FeatureOptions())
    expected = cross_validate(learned.with_columns(fold=fold), CrossValidationOptions(), fixed)
    assert trials["loss"][0] == pytest.approx(expected["mean_rmse"], rel=1e-12)
    assert trials["repetitions"][0] == 3


@pytest.mark.parametrize("inner", [{}, {"fraction": 0.3}])
def test_held_out_ratings_are_never_read(inner: dict[str, Any]) -> None:
    marks = assign_splits(ratings(), COLUMNS, LATEST)["split"]
    changed = ratings().with_columns(rating=pl.when(marks == "test").then(6 - pl.col("rating")).otherwise("rating"))
    (trials, text), (others, same) = tune(ratings(), inner=inner), tune(changed, inner=inner)
    assert not changed.equals(ratings())
    assert text == same and trials.drop("seconds").equals(others.drop("seconds"))
    assert trials.filter(pl.col("state") == "complete")["loss"].min() <= trials["loss"][0]


def test_a_setting_that_ratings_do_not_have_is_named() -> None:
    with pytest.raises(DataError, match=r"tune\.space.*training\.penalty\.factor"):
        tune(ratings(), space={"training.penalty.factor": {"low": 0.1, "high": 0.2}})


IDS = pl.DataFrame(
    {
        "document_id": [f"d{k:02}" for k in range(60)],
        "label": ["neg", "pos"] * 25 + [None] * 10,
        "split": ["train"] * 24 + ["validation"] * 6 + ["test"] * 20 + ["unlabelled"] * 10,
        "ids": [[1, 2, 3]] * 60,
    }
)


@pytest.mark.parametrize(
    ("inner", "n_held_out"), [({}, [6] * 2), ({"fraction": 0.4}, [12] * 2), ({"folds": 3}, [10] * 6)]
)
def test_texts_are_tuned_on_training_documents(
    inner: dict[str, Any], n_held_out: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[pl.DataFrame, ClassifierTraining]] = []

    def train(ids: pl.DataFrame, words: Any, classes: Any, model: Any, network: Any, training: Any) -> Any:
        seen.append((ids, training))
        return SimpleNamespace(metrics={"validation_loss": training.rate_decay}), []

    monkeypatch.setattr(texts, "train_classifier", train)
    monkeypatch.setattr(nodes, "load_vocabulary", lambda values: Vocabulary)
    space = {"classifier_training.rate_decay": {"low": 1.0, "high": 4.0}}
    options = TuneOptions.model_validate({"trials": 1, "seeds": [5, 6], "inner": inner, "space": space})
    training = ClassifierTraining.model_validate({"batch_size": 8, "stages": [{"epochs": 1, "lr": 0.1}]})
    classes, model = Classes(("neg", "pos")), SimpleNamespace(to_bytes=lambda: b"model")
    trials, _ = nodes.tune_text(IDS, {}, classes, model, ClassifierOptions(), training, options)
    assert trials["loss"][0] == training.rate_decay and len(seen) == len(n_held_out)
    assert [given.seeds for _, given in seen] == [(5,)] * (len(seen) // 2) + [(6,)] * (len(seen) // 2)
    for (ids, _), n in zip(seen, n_held_out, strict=True):
        held_out = ids.filter(split="validation")
        assert set(ids["split"]) == {"train", "validation"} and len(ids) == 30 and len(held_out) == n
        assert held_out["label"].value_counts()["count"].to_list() == [n // 2] * 2
    if inner.get("folds"):
        assert sorted(pl.concat([ids.filter(split="validation") for ids, _ in seen[:3]])["document_id"]) == sorted(
            IDS["document_id"][:30]
        )
