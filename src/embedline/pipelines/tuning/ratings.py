"""Trials of the ratings' network, on ratings inside the training part."""

from dataclasses import replace

import numpy as np
import polars as pl

from embedline.pipelines.ratings.contract import TEST, RatingSplit, subset
from embedline.pipelines.ratings.cross_validation import ModelSettings
from embedline.pipelines.ratings.learner import rating_metrics, rating_tensors
from embedline.pipelines.ratings.options import FeatureOptions, RatingNetwork, RatingsTraining
from embedline.pipelines.tuning.options import FRACTION, InnerOptions, TuneOptions
from embedline.pipelines.tuning.space import Settings
from embedline.pipelines.tuning.study import Evaluation

FOLD = "inner_fold"


def ratings_evaluation(
    learned: pl.DataFrame, split: RatingSplit, fixed: ModelSettings, options: TuneOptions
) -> Evaluation:
    """One network for each inner split and seed: the RMSE on the inner held-out ratings.

    ``learned`` are the training ratings of ``split``, without the column ``split``; ``fixed`` is what is not tuned.
    """
    rows, parts = _rating_parts(learned, split, options.inner)

    def measure(settings: Settings, repetition: int) -> float:
        features, network, training = settings["features"], settings["network"], settings["training"]
        assert isinstance(features, FeatureOptions) and isinstance(network, RatingNetwork)
        assert isinstance(training, RatingsTraining)
        seed, part = options.seeds[repetition // len(parts)], parts[repetition % len(parts)]
        training = training.model_copy(update={"seeds": (seed,), "weights": None})
        chosen = replace(fixed, features=features, network=network, training=training)
        encoded, model, _ = chosen.train(rows, part, "")
        users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, TEST)))
        return rating_metrics(actual, model.predict(users, items))["rmse"]

    return Evaluation("rmse", len(parts) * len(options.seeds), measure)


def _rating_parts(
    learned: pl.DataFrame, split: RatingSplit, inner: InnerOptions
) -> tuple[pl.DataFrame, list[RatingSplit]]:
    """The ratings, and inner splits of them: folds, a random share or, as in their own split, the latest."""
    if inner.folds is not None:
        fold = np.random.default_rng(inner.seed).permutation(len(learned)) % inner.folds
        rows = learned.with_columns(pl.Series(FOLD, fold, pl.Int64))
        return rows, [RatingSplit(kind="column", column=FOLD, value=number) for number in range(inner.folds)]
    if inner.fraction is None and split.kind == "latest":
        return learned, [split]
    return learned, [RatingSplit(kind="random", fraction=inner.fraction or FRACTION, seed=inner.seed)]
