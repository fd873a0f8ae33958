"""Measure a model on held-out ratings: errors and rankings, beside those of baselines."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from embedline.errors import DataError, about_frame
from embedline.pipelines.ratings.contract import TEST, TRAIN, RatingColumns, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, UNKNOWN, USER_ROW, RatingsEncoder, training_counts
from embedline.pipelines.ratings.learner import RatingModel, rating_metrics
from embedline.pipelines.ratings.options import BaselineOptions, RankingOptions
from embedline.pipelines.ratings.rankers import Popularity
from embedline.pipelines.ratings.ranking import (
    RATING_RANKER,
    Recommender,
    Settings,
    fit,
    interaction_matrix,
    interaction_values,
    recency_of,
)
from embedline.pipelines.ratings.ranking_metrics import ListMetrics, Scores, measure_lists

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
    """Predict the held-out ratings, by the model and by the baselines; that nothing is held out is a DataError.

    Returns:
        In the order of the ratings ``user``, ``item`` (ids), ``actual``, ``predicted``, ``global_mean`` (the mean of
        the training ratings), ``damped_bias`` (all Float64), and ``user_ratings`` and ``item_ratings`` (Int64): how
        many training ratings there are of the user and of the item.
    """
    with about_frame("ratings"):
        rows = subset(assign_splits(ratings, columns, split), TEST)
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


def evaluate(predictions: pl.DataFrame) -> dict[str, Any]:
    """Errors on the predictions of :func:`predict_held_out`; warns of a baseline that is as good.

    Returns:
        ``mse``, ``rmse``, ``mae``, ``r2`` of the model; ``baselines`` with the same of ``global_mean`` and
        ``damped_bias``; ``beaten_by``: metrics by which a baseline is as good, such as ``damped_bias.mse``;
        ``unknown_users`` and ``unknown_items``: the number of held-out ratings whose user or item has no training
        rating.
    """
    actual = predictions["actual"].to_numpy()
    metrics: dict[str, dict[str, Any]] = {
        name: rating_metrics(actual, predictions[name].to_numpy()) for name in (PREDICTED, GLOBAL_MEAN, DAMPED_BIAS)
    }
    ours = metrics.pop(PREDICTED)
    beaten_by = as_good("mse", ours["mse"], {name: one["mse"] for name, one in metrics.items()})
    return {
        **ours,
        "unknown_users": int((predictions["user_ratings"] == 0).sum()),
        "unknown_items": int((predictions["item_ratings"] == 0).sum()),
        "beaten_by": [f"{name}.mse" for name in beaten_by],
        "baselines": metrics,
    }


def evaluate_ranking(
    encoded: pl.DataFrame, recommender: Recommender, candidates: Mapping[str, Settings], options: RankingOptions
) -> dict[str, Any]:
    """Metrics of the recommendations on the held-out rows, beside those of other rankers and of baselines.

    Args:
        recommender: the chosen ranker, with the rating model where there is one.
        candidates: settings of each other ranker, chosen on the inner split; they are fitted anew.

    Returns:
        ``ranker``, ``k``, the metrics of :func:`.ranking_metrics.measure_lists` with those by class, the 95 % interval
        of the NDCG; ``rankers``: the same of the others, of ``predicted_rating`` too; ``baselines``: ``popularity``
        (the number of training ratings), ``popularity_relevant`` (of relevant ones) and ``random``, each with its
        ``differences`` (the chosen ranker's NDCG less its own, over the same users); ``beaten_by``: baselines that are
        as good, or not significantly worse.

    Raises:
        DataError: ``ranking.relevant`` is above every possible rating.
    """
    encoder = recommender.encoder
    is_rating = encoder.columns.rating is not None
    if is_rating and options.relevant > encoder.rating_range[1]:
        raise DataError(
            f"ranking.relevant {options.relevant:g} is above the highest rating of rating_range, "
            f"{encoder.rating_range[1]:g}: no item could be relevant"
        )
    matrix, main = interaction_matrix(encoded, encoder), f"ndcg_at_{options.k}"

    def measure(scores: Scores) -> ListMetrics:
        return measure_lists(scores, encoded, encoder, options)

    ours = measure(recommender.scores)
    if not len(ours.users["ndcg"]):
        logger.warning("No held-out row of a known user is relevant (ranking.relevant): lists have no metrics")
    others = {}
    for kind, settings in candidates.items():
        if kind not in (recommender.kind, Popularity.kind, RATING_RANKER):
            rows = interaction_matrix(encoded, encoder, recency_of(settings))
            ranker = fit(kind, settings, matrix, encoder)
            others[kind] = measure(replace(recommender, ranker=ranker, kind=kind, matrix=rows).scores)
    if recommender.model is not None and recommender.ranker is not None:
        others["predicted_rating"] = measure(recommender.model.scores)
    found, beaten_by = {}, []
    for name, scores in _baselines(recommender, matrix, options).items():
        theirs = measure(scores)
        found[name] = {**theirs.summary(), **theirs.interval(), **theirs.groups}
        if not len(ours.users["ndcg"]):
            continue
        found[name]["differences"] = {main: (difference := ours.difference(theirs))}
        _log_difference(main, recommender.kind, ours.summary()[main], name, theirs.summary()[main], difference)
        if difference["verdict"] != "better":
            beaten_by.append(f"{name}.{main}")
    return {
        "ranker": recommender.kind,
        "k": options.k,
        **ours.summary(),
        **ours.interval(),
        **ours.groups,
        "beaten_by": beaten_by,
        "rankers": {kind: {**one.summary(), **one.interval(), **one.groups} for kind, one in others.items()},
        "baselines": found,
    }


def _baselines(recommender: Recommender, matrix: sp.csr_array, options: RankingOptions) -> dict[str, Scores]:
    """Popularity, of ratings also among those from ``options.relevant`` on, and chance."""
    encoder, random = recommender.encoder, np.random.default_rng(0)
    ranked = replace(recommender, kind=Popularity.kind, ranker=recommender.popularity)
    found: dict[str, Scores] = {POPULARITY: ranked.scores}
    if encoder.columns.rating is not None:
        least = float(interaction_values(np.array([options.relevant]), encoder)[0])
        found[f"{POPULARITY}_relevant"] = replace(ranked, ranker=Popularity.fit(matrix, least=least)).scores
    return {**found, "random": lambda rows: random.random((len(rows), len(encoder.items)), dtype=np.float32)}


def _log_difference(
    metric: str, ranker: str, ours: float, baseline: str, theirs: float, difference: Mapping[str, Any]
) -> None:
    text = "%s: %s %.4f, %s %.4f; difference %+.4f (95 %% interval %+.4f to %+.4f)"
    level = logging.INFO if difference["verdict"] == "better" else logging.WARNING
    ends = difference["difference"], difference["low"], difference["high"]
    logger.log(level, text, metric, ranker, ours, baseline, theirs, *ends)


def as_good(metric: str, ours: float, theirs: Mapping[str, float]) -> list[str]:
    """Names of the baselines whose error is as low as the model's, or lower; warns of each."""
    found = []
    for name, value in theirs.items():
        logger.info("%s: the model %.4f, %s %.4f", metric, ours, name, value)
        if value <= ours:
            found.append(name)
            logger.warning("The model (%s %.4f) loses to %s (%.4f)", metric, ours, name, value)
    return found


# Baselines


@dataclass(frozen=True)
class Biases:
    """The mean rating, and biases float64 of users [n_users + 1] and items [n_items + 1]; 0 in row 0, the unknown."""

    mean: float
    user: NDArray[np.float64]
    item: NDArray[np.float64]

    def predict(self, user_rows: NDArray[np.integer], item_rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Ratings float64 [N] of pairs: mean + b_i + b_u."""
        predicted = self.user[user_rows]
        predicted += self.item[item_rows]
        predicted += self.mean
        return predicted


def fit_biases(encoded: pl.DataFrame, encoder: RatingsEncoder, options: BaselineOptions) -> Biases:
    """Biases of the training ratings that shrink towards 0 where there are few ratings, as LensKit's ``BiasScorer``.

    With ``mu`` the mean rating and ``n`` the number of ratings of an item, or of a user::

        b_i = sum(r - mu) / (n + item_damping)
        b_u = sum(r - mu - b_i) / (n + user_damping)
    """
    train = subset(encoded, TRAIN)
    user_rows, item_rows, ratings = (train[name].to_numpy() for name in (USER_ROW, ITEM_ROW, RATING))
    mean = float(np.mean(ratings, dtype=np.float64))
    residual = ratings.astype(np.float64)
    residual -= mean
    item = damped_means(item_rows, residual, len(encoder.items) + 1, options.item_damping)
    item[UNKNOWN] = 0.0
    residual -= item[item_rows]
    user = damped_means(user_rows, residual, len(encoder.users) + 1, options.user_damping)
    user[UNKNOWN] = 0.0
    return Biases(mean, user, item)


def damped_means(
    rows: NDArray[np.integer], residual: NDArray[np.float64], size: int, damping: float
) -> NDArray[np.float64]:
    """Sum of the residuals of each row over their number plus ``damping``, float64 [size]; 0 of a row without any."""
    counts = np.bincount(rows, minlength=size) + damping
    sums = np.bincount(rows, residual, minlength=size)
    return np.divide(sums, counts, out=np.zeros(size), where=counts > 0)
