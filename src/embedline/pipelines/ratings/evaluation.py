"""Predictions of the held-out ratings by the model and by the baselines, and their metrics."""

import logging
from typing import Any

import numpy as np
import polars as pl

from embedline.errors import DataError
from embedline.pipelines.ratings.baselines import fit_biases
from embedline.pipelines.ratings.contract import to_polars
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW, training_counts
from embedline.pipelines.ratings.learner import RatingModel, rating_metrics
from embedline.pipelines.ratings.options import TEST, BaselineOptions, RankingOptions, RatingColumns, RatingSplit
from embedline.pipelines.ratings.ranking import ranking_metrics
from embedline.pipelines.ratings.splits import assign_splits, subset

logger = logging.getLogger(__name__)

PREDICTED, GLOBAL_MEAN, DAMPED_BIAS, POPULARITY = "predicted", "global_mean", "damped_bias", "popularity"


def predict_held_out(
    ratings: Any,
    encoded: pl.DataFrame,
    model: RatingModel,
    columns: RatingColumns,
    split: RatingSplit,
    baselines: BaselineOptions,
) -> pl.DataFrame:
    """Predict the held-out ratings, by the model and by the baselines.

    Returns:
        In the order of the ratings ``user``, ``item`` (ids), ``actual``, ``predicted``, ``global_mean`` (the mean of
        the training ratings), ``damped_bias`` (all Float64), and ``user_ratings`` and ``item_ratings`` (Int64): how
        many training ratings there are of the user and of the item.

    Raises:
        DataError: if the split holds nothing out.
    """
    rows = subset(to_polars(assign_splits(ratings, columns, split)), TEST)
    held_out = subset(encoded, TEST)
    if held_out.is_empty():
        raise DataError(f"split.kind {split.kind!r} holds no rating out: there is nothing to predict and to evaluate")
    user_rows, item_rows = held_out[USER_ROW].to_numpy(), held_out[ITEM_ROW].to_numpy()
    counts = training_counts(encoded, model.encoder)
    biases = fit_biases(encoded, model.encoder, baselines)
    return pl.DataFrame(
        {
            "user": rows[columns.user],
            "item": rows[columns.item],
            "actual": held_out[RATING].cast(pl.Float64),
            PREDICTED: model.predict(user_rows, item_rows),
            GLOBAL_MEAN: np.full(len(rows), model.encoder.rating_mean),
            DAMPED_BIAS: np.clip(biases.predict(user_rows, item_rows), *model.encoder.rating_range),
            "user_ratings": counts.users[user_rows],
            "item_ratings": counts.items[item_rows],
        }
    )


def evaluate(
    predictions: pl.DataFrame,
    encoded: pl.DataFrame,
    model: RatingModel,
    baselines: BaselineOptions,
    ranking: RankingOptions,
) -> dict[str, Any]:
    """Metrics of the model and of the baselines on the held-out ratings; warns of a baseline that is as good.

    Returns:
        ``mse``, ``rmse``, ``mae``, ``r2`` of the model, and the metrics of its ranking (``precision_at_10``, …,
        ``ranked_users``); ``baselines`` with the same of ``global_mean`` (no ranking), ``damped_bias`` and
        ``popularity`` (a ranking alone: by the number of training ratings); ``beaten_by``: metrics by which a baseline
        is as good, such as ``popularity.ndcg_at_10``; ``unknown_users`` and ``unknown_items``: the number of held-out
        ratings whose user or item has no training rating.

    Raises:
        DataError: if ``ranking.relevant`` is above every possible rating.
    """
    encoder, actual = model.encoder, predictions["actual"].to_numpy()
    if ranking.relevant > encoder.rating_range[1]:
        raise DataError(
            f"ranking.relevant {ranking.relevant:g} is above the highest rating of rating_range, "
            f"{encoder.rating_range[1]:g}: no item could be relevant"
        )
    biases = fit_biases(encoded, encoder, baselines)
    popularity = training_counts(encoded, encoder).items[1:].astype(np.float32)

    def popular(rows: Any) -> Any:
        return np.repeat(popularity[None], len(rows), axis=0)

    metrics: dict[str, dict[str, Any]] = {
        name: rating_metrics(actual, predictions[name].to_numpy()) for name in (PREDICTED, GLOBAL_MEAN, DAMPED_BIAS)
    }
    for name, scores in ((PREDICTED, model.scores), (DAMPED_BIAS, biases.scores), (POPULARITY, popular)):
        ranked = ranking_metrics(scores, encoded, len(encoder.items), ranking)
        ranked["ranked_users"] = ranked.pop("users")
        metrics[name] = metrics.get(name, {}) | ranked
    ours = metrics.pop(PREDICTED)
    return {
        **ours,
        "unknown_users": int((predictions["user_ratings"] == 0).sum()),
        "unknown_items": int((predictions["item_ratings"] == 0).sum()),
        "beaten_by": _beaten_by(ours, metrics, f"ndcg_at_{ranking.k}"),
        "baselines": metrics,
    }


def _beaten_by(ours: dict[str, Any], baselines: dict[str, dict[str, Any]], ranking: str) -> list[str]:
    """Metrics of baselines that are as good as the model's, by the squared error and by the ranking; warns of each."""
    beaten = []
    for metric, sign in (("mse", 1.0), (ranking, -1.0)):
        for name, theirs in baselines.items():
            if theirs.get(metric) is None or ours[metric] is None:
                continue
            logger.info("%s: the model %.4f, %s %.4f", metric, ours[metric], name, theirs[metric])
            if sign * theirs[metric] <= sign * ours[metric]:
                beaten.append(f"{name}.{metric}")
                logger.warning("The model (%s %.4f) loses to %s (%.4f)", metric, ours[metric], name, theirs[metric])
    return beaten
