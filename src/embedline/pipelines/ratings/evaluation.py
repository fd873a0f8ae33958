"""Measure a model on held-out ratings: errors and rankings, beside those of baselines."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError, about_frame
from embedline.pipelines.ratings.contract import TEST, TRAIN, RatingColumns, RatingSplit, assign_splits, subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, UNKNOWN, USER_ROW, RatingsEncoder, training_counts
from embedline.pipelines.ratings.learner import RatingModel, rating_metrics
from embedline.pipelines.ratings.options import BaselineOptions, RankingOptions

logger = logging.getLogger(__name__)

PREDICTED, GLOBAL_MEAN, DAMPED_BIAS, POPULARITY = "predicted", "global_mean", "damped_bias", "popularity"
BLOCK_SCORES = 2**24  # scores of a block of users: 64 MB in float32, and as much again to rank them

Scores = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""New scores float32 [n, n_items] of all items, row 0 left out, for user rows int32 [n]; -inf: not in the ranking."""


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
    popularity = training_counts(encoded, encoder).items[None, 1:].astype(np.float32)
    rankings: dict[str, Scores] = {
        PREDICTED: model.scores,
        DAMPED_BIAS: biases.scores,
        POPULARITY: lambda rows: np.repeat(popularity, len(rows), axis=0),
    }
    metrics: dict[str, dict[str, Any]] = {
        name: rating_metrics(actual, predictions[name].to_numpy()) for name in (PREDICTED, GLOBAL_MEAN, DAMPED_BIAS)
    }
    for name, scores in rankings.items():
        metrics[name] = metrics.get(name, {}) | ranking_metrics(scores, encoded, len(encoder.items), ranking)
    ours = metrics.pop(PREDICTED)
    beaten_by = []
    for metric in ("mse", f"ndcg_at_{ranking.k}"):
        theirs = {name: one[metric] for name, one in metrics.items() if metric in one}
        beaten_by += [f"{name}.{metric}" for name in as_good(metric, ours[metric], theirs, higher=metric != "mse")]
    return {
        **ours,
        "unknown_users": int((predictions["user_ratings"] == 0).sum()),
        "unknown_items": int((predictions["item_ratings"] == 0).sum()),
        "beaten_by": beaten_by,
        "baselines": metrics,
    }


def as_good(metric: str, ours: float | None, theirs: Mapping[str, float | None], *, higher: bool = False) -> list[str]:
    """Names of the baselines that are as good as the model, or better, by a metric; warns of each."""
    found = []
    for name, value in theirs.items():
        if value is None or ours is None:
            continue
        logger.info("%s: the model %.4f, %s %.4f", metric, ours, name, value)
        if value >= ours if higher else value <= ours:
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

    def scores(self, user_rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """:data:`Scores` of all items: the same order for every user."""
        return (self.mean + self.user[user_rows][:, None] + self.item[None, 1:]).astype(np.float32)


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


# Rankings


def top_items(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k highest scores of each row, highest first, and the lower place first of equal ones.

    Args:
        scores: float32 [U, I]; -inf: not to be recommended.

    Returns:
        Rows of the items, int64 [U, k] (place + 1; 0 where nothing is left to recommend), and their scores.
    """
    k = min(k, scores.shape[1])
    if k == scores.shape[1]:
        candidates = np.broadcast_to(np.arange(k), scores.shape)
    else:
        least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        # The k-th highest score may come several times: of these the lower places are to be kept.
        above, at = scores > least, scores == least
        wanted = above | (at & (np.cumsum(at, axis=1) <= k - above.sum(axis=1, keepdims=True)))
        candidates = np.nonzero(wanted)[1].reshape(len(scores), k)
    found = np.take_along_axis(scores, candidates, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    best, values = np.take_along_axis(candidates, order, axis=1), np.take_along_axis(found, order, axis=1)
    return np.where(np.isneginf(values), UNKNOWN, best + 1), values


class RatedItems:
    """The items that each of ``n_users`` users, or more, has rated in encoded rows, found without a search."""

    def __init__(self, pairs: pl.DataFrame, n_users: int) -> None:
        users = pairs[USER_ROW].to_numpy()
        self._items = pairs[ITEM_ROW].to_numpy()[np.argsort(users, kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users + 1))])

    def pairs(self, users: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Pairs of a place in ``users`` (rows, int [U]) and the row of an item that this user has rated, [N] each."""
        begins = self._starts[users]
        counts = self._starts[users + 1] - begins
        places = np.repeat(np.arange(len(users)), counts)
        offsets = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, self._items[np.repeat(begins, counts) + offsets]


def rank_items(
    scores: Scores, users: NDArray[np.int32], rated: RatedItems, n_items: int, k: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]]:
    """The rows of a block of users, and the k best items of each but those ``rated``, of :func:`top_items`."""
    size = max(1, BLOCK_SCORES // n_items)
    for start in range(0, len(users), size):
        rows = users[start : start + size]
        of_all = scores(rows)
        places, items = rated.pairs(rows)
        of_all[places, items - 1] = -np.inf
        yield rows, *top_items(of_all, k)


def ranking_metrics(scores: Scores, encoded: pl.DataFrame, n_items: int, options: RankingOptions) -> dict[str, Any]:
    """Precision, recall and NDCG of the first ``options.k`` items of each user's ranking, averaged over users.

    Every user with training ratings and a relevant held-out item (its rating at least ``options.relevant``) ranks all
    items but those that the user rated in training. A relevant item that no training row has is in nobody's list and
    counts as missed. NDCG is that of Järvelin & Kekäläinen 2002 with a gain of 1 for a relevant item:
    ``sum over hits of 1 / log2(1 + place)`` over its largest possible value.

    Returns:
        ``precision_at_<k>``, ``recall_at_<k>``, ``ndcg_at_<k>`` and ``ranked_users``, how many were averaged over;
        the metrics are None where no user has a relevant held-out item.
    """
    relevant = subset(encoded, TEST).filter((pl.col(RATING) >= options.relevant) & (pl.col(USER_ROW) != UNKNOWN))
    relevant = relevant.select(USER_ROW, ITEM_ROW).unique()
    users = relevant.get_column(USER_ROW).unique().sort().to_numpy()
    names = [f"{name}_at_{options.k}" for name in ("precision", "recall", "ndcg")]
    if not len(users):
        return {**dict.fromkeys(names), "ranked_users": 0}
    seen, wanted = (RatedItems(rows, int(users[-1])) for rows in (subset(encoded, TRAIN), relevant))
    sums = np.zeros(3)
    for rows, ranked, _ in rank_items(scores, users, seen, n_items, options.k):
        sums += _sum_metrics(ranked, *wanted.pairs(rows), options.k)
    return {**dict(zip(names, (sums / len(users)).tolist(), strict=True)), "ranked_users": len(users)}


def _sum_metrics(
    ranked: NDArray[np.int64], places: NDArray[np.int64], relevant: NDArray[np.int32], k: int
) -> NDArray[np.float64]:
    """Sums over the users of precision, recall and NDCG, float64 [3].

    Args:
        ranked: rows of the items of each user's ranking, [U, k] or fewer.
        places: user, a row of ``ranked``, of each relevant item, [N], rising.
        relevant: its row, [N].
    """
    width = max(int(ranked.max()), int(relevant.max())) + 1
    hits = np.isin(np.arange(len(ranked))[:, None] * width + ranked, places * width + relevant) & (ranked != UNKNOWN)
    wanted = np.bincount(places, minlength=len(ranked))
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(gains)[np.minimum(wanted, k) - 1]
    found = hits.sum(axis=1)
    ndcg = (hits * gains[: hits.shape[1]]).sum(axis=1) / ideal
    return np.array([(found / k).sum(), (found / wanted).sum(), ndcg.sum()])
