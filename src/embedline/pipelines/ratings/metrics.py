"""Figures of merit of predicted ratings, and of ranked lists of items."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, UNKNOWN, USER_ROW
from embedline.pipelines.ratings.options import TEST, TRAIN, RankingOptions
from embedline.pipelines.ratings.ranking import top_items
from embedline.pipelines.ratings.splits import subset
from embedline.training.metrics import regression_metrics

SCORES = 2**24  # scores of a block of users: 64 MB, and as much again to rank them

Scores = Callable[[NDArray[np.int32]], NDArray[np.float32]]


def rating_metrics(actual: NDArray[np.floating], predicted: NDArray[np.floating]) -> dict[str, float]:
    """MSE, RMSE, MAE and, where the ratings differ, R² of float arrays [N]."""
    figures = regression_metrics(actual, predicted, logarithmic=False)
    return {"mse": figures["rmse"] ** 2, **figures}


def ranking_metrics(scores: Scores, encoded: pl.DataFrame, n_items: int, options: RankingOptions) -> dict[str, Any]:
    """Precision, recall and NDCG of the first ``options.k`` items of each user's ranking, averaged over users.

    Every user with training ratings and a relevant held-out item (its rating at least ``options.relevant``) ranks all
    items but those that the user rated in training. A relevant item that no training row has is in nobody's list and
    counts as missed. NDCG is that of Järvelin & Kekäläinen 2002 with a gain of 1 for a relevant item:
    ``sum over hits of 1 / log2(1 + place)`` over its largest possible value.

    Args:
        scores: gives the scores float32 [n, n_items] of all items, row 0 left out, for user rows int32 [n].
        encoded: of :func:`.encoder.encode`.

    Returns:
        ``precision_at_<k>``, ``recall_at_<k>``, ``ndcg_at_<k>`` and ``users``, how many were averaged over; the figures
        are None where no user has a relevant held-out item.
    """
    k = min(options.k, n_items)
    relevant = subset(encoded, TEST).filter((pl.col(RATING) >= options.relevant) & (pl.col(USER_ROW) != UNKNOWN))
    relevant = relevant.select(USER_ROW, ITEM_ROW).unique().sort(USER_ROW, ITEM_ROW)
    users = relevant.get_column(USER_ROW).unique().sort()
    names = [f"{name}_at_{options.k}" for name in ("precision", "recall", "ndcg")]
    if not len(users):
        return {**dict.fromkeys(names), "users": 0}
    seen = subset(encoded, TRAIN).select(USER_ROW, ITEM_ROW).filter(pl.col(USER_ROW).is_in(users.implode()))
    seen = seen.sort(USER_ROW)
    sums = np.zeros(3)
    for block in users.to_frame().iter_slices(max(1, SCORES // n_items)):
        rows = block.to_series().to_numpy()
        ranked = _rank(scores(rows), _pairs_of(seen, rows), k)
        sums += _figures(ranked, rows, _pairs_of(relevant, rows), options.k)
    return {**dict(zip(names, (sums / len(users)).tolist(), strict=True)), "users": len(users)}


def _pairs_of(pairs: pl.DataFrame, users: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place of the user among ``users`` (sorted) and row of the item, of the ``pairs`` (sorted by user) of these."""
    column = pairs.get_column(USER_ROW)
    first, last = column.search_sorted(users[0], side="left"), column.search_sorted(users[-1], side="right")
    own = pairs.slice(first, last - first)
    rows, items = own.get_column(USER_ROW).to_numpy(), own.get_column(ITEM_ROW).to_numpy()
    places = np.searchsorted(users, rows)
    kept = users[places] == rows
    return places[kept], items[kept].astype(np.int64)


def _rank(scores: NDArray[np.float32], seen: tuple[NDArray[np.int64], NDArray[np.int64]], k: int) -> NDArray[np.int64]:
    """Rows int64 [n, k] of each user's best items, the best first, but those ``seen``; 0 where there are no more."""
    scores = np.array(scores, dtype=np.float32)  # the caller's are left as they are
    scores[seen[0], seen[1] - 1] = -np.inf
    return top_items(scores, k)[0]


def _figures(
    ranked: NDArray[np.int64],
    users: NDArray[np.int32],
    relevant: tuple[NDArray[np.int64], NDArray[np.int64]],
    k: int,
) -> NDArray[np.float64]:
    """Sums over the users of precision, recall and NDCG, float64 [3]."""
    width = max(int(ranked.max()), int(relevant[1].max())) + 1
    keys = relevant[0] * width + relevant[1]
    hits = np.isin(np.arange(len(users))[:, None] * width + ranked, keys) & (ranked != UNKNOWN)
    wanted = np.bincount(relevant[0], minlength=len(users))
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(gains)[np.minimum(wanted, k) - 1]
    found = hits.sum(axis=1)
    ndcg = (hits * gains[: hits.shape[1]]).sum(axis=1) / ideal
    return np.array([(found / k).sum(), (found / wanted).sum(), ndcg.sum()])
