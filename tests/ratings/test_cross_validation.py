"""Each fold is a training of its own, and its metrics are those of the rows that it held out."""

import polars as pl
import pytest
from simulated_ratings import ratings_table

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import RatingColumns, RatingSplit, subset
from embedline.pipelines.ratings.cross_validation import ModelSettings, cross_validate
from embedline.pipelines.ratings.encoder import encode, fit_encoder
from embedline.pipelines.ratings.learner import load_model, rating_metrics, rating_tensors, train_ratings
from embedline.pipelines.ratings.options import BaselineOptions, CrossValidationOptions, RatingNetwork, RatingsTraining

COLUMNS, NETWORK = RatingColumns(), RatingNetwork(factors=4, init_std=0.1)
TRAINING = RatingsTraining(epochs=3, batch_size=32, lr=0.02, seeds=(1, 2), device="cpu", precision="fp32")
SETTINGS = ModelSettings(COLUMNS, NETWORK, TRAINING, BaselineOptions())


def test_a_fold_is_what_a_training_on_the_others_gives() -> None:
    ratings = ratings_table(1000)
    found = cross_validate(
        ratings.to_pandas(),
        CrossValidationOptions(column="fold"),
        SETTINGS,
    )
    assert [fold["value"] for fold in found["folds"]] == [1, 2, 3, 4, 5]
    assert [(fold["train_rows"], fold["rows"]) for fold in found["folds"]] == [(800, 200)] * 5
    encoder = fit_encoder(ratings.filter(pl.col("fold") != 2), COLUMNS)
    encoded = encode(ratings, encoder, COLUMNS, RatingSplit(kind="column", column="fold", value=2))
    bundle, _ = train_ratings(encoded, encoder, NETWORK, TRAINING)
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, "test")))
    expected = rating_metrics(actual, load_model(bundle).predict(users, items))
    assert {name: found["folds"][1][name] for name in expected} == expected
    assert found["mean_rmse"] == pytest.approx(sum(fold["rmse"] for fold in found["folds"]) / 5)
    damped = [fold["baselines"]["damped_bias"]["mse"] for fold in found["folds"]]
    assert found["baselines"]["damped_bias"]["mean_mse"] == pytest.approx(sum(damped) / 5)


def test_some_values_can_be_listed() -> None:
    found = cross_validate(
        ratings_table(500),
        CrossValidationOptions(column="fold", values=(4, 2)),
        SETTINGS,
    )
    assert [fold["value"] for fold in found["folds"]] == [4, 2]


def test_a_column_without_values_is_refused() -> None:
    ratings = ratings_table(500).with_columns(fold=pl.lit(None, pl.Int8))
    with pytest.raises(DataError, match=r"cross_validation.column 'fold' has 0 value\(s\): it needs two or more"):
        cross_validate(
            ratings,
            CrossValidationOptions(),
            SETTINGS,
        )
