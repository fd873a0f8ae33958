"""Predictions of the held-out ratings by the model and by the baselines, and their metrics; cross-validation."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from embedline.errors import DataError
from embedline.pipelines.ratings.baselines import fit_biases
from embedline.pipelines.ratings.contract import assign_splits, read_ratings, require_columns, subset, to_polars
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW, encode, fit_encoder, training_counts
from embedline.pipelines.ratings.learner import RatingModel, load_model, rating_metrics, rating_tensors, train_ratings
from embedline.pipelines.ratings.options import (
    TEST,
    TRAIN,
    BaselineOptions,
    CrossValidationOptions,
    FeatureOptions,
    RankingOptions,
    RatingColumns,
    RatingNetwork,
    RatingSplit,
    RatingsTraining,
    Span,
)
from embedline.pipelines.ratings.ranking import ranking_metrics
from embedline.training.distributed import processes
from embedline.training.model_file import ModelBundle

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


def cross_validate(
    ratings: Any,
    columns: RatingColumns,
    folds: CrossValidationOptions,
    *,
    network: RatingNetwork,
    training: RatingsTraining,
    baselines: BaselineOptions,
    rating_range: Span = "auto",
    features: FeatureOptions | None = None,
    items: Any = None,
    users: Any = None,
) -> dict[str, Any]:
    """Train a model of its own, all seeds of it, for each value of ``folds.column``, on the rows of the other values.

    The held-out rows are predicted once, after the training. Rows without a value train in every fold.

    Returns:
        ``folds``, a dictionary for each value with ``value``, ``train_rows``, ``rows``, the metrics of
        :func:`.learner.rating_metrics` and, as ``baselines.damped_bias``, those of damped biases; and
        ``mean_mse``, ``mean_rmse``, ``mean_mae`` over the folds and the same of ``baselines``.

    Raises:
        DataError: if the column is missing, or has fewer than two values.
    """
    frame = read_ratings(ratings, columns, [folds.column])
    require_columns(frame, [folds.column], what="the ratings frame", key="cross_validation.column")
    values = folds.values or tuple(frame.get_column(folds.column).drop_nulls().unique().sort().to_list())
    if len(values) < 2:
        raise DataError(f"cross_validation.column {folds.column!r} has {len(values)} value(s): it needs two or more")
    results = []
    with processes(training):  # once for all folds
        for value in values:
            split = RatingSplit(kind="column", column=folds.column, value=value)
            rows = to_polars(assign_splits(frame, columns, split))
            encoder = fit_encoder(subset(rows, TRAIN), columns, rating_range, features, items, users)
            encoded = encode(frame, encoder, columns, split)
            name = f"{folds.column}{value}"
            bundle, _ = train_ratings(encoded, encoder, network, training, name=name, evaluated=False)
            result = {"value": value, **_measure(encoded, bundle, baselines)}
            logger.info("%s %s: rmse %.4f", folds.column, value, result["rmse"])
            results.append(result)
    return {
        "folds": results,
        **_means(results),
        "baselines": {"damped_bias": _means([result["baselines"]["damped_bias"] for result in results])},
    }


def _measure(encoded: pl.DataFrame, bundle: ModelBundle, options: BaselineOptions) -> dict[str, Any]:
    """Metrics of a model, and of damped biases, on the held-out rows."""
    users, items, actual = (tensor.numpy() for tensor in rating_tensors(subset(encoded, TEST)))
    model = load_model(bundle)
    damped = np.clip(fit_biases(encoded, model.encoder, options).predict(users, items), *model.encoder.rating_range)
    return {
        "train_rows": len(subset(encoded, TRAIN)),
        "rows": len(actual),
        **rating_metrics(actual, model.predict(users, items)),
        "baselines": {"damped_bias": rating_metrics(actual, damped)},
    }


def _means(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {f"mean_{name}": float(np.mean([result[name] for result in results])) for name in ("mse", "rmse", "mae")}
