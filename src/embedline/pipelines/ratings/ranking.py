"""The best items of each user by the scores of all items, and metrics of such rankings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.ratings.contract import subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, UNKNOWN, USER_ROW
from embedline.pipelines.ratings.options import TEST, TRAIN, RankingOptions

BLOCK_SCORES = 2**24  # scores of a block of users: 64 MB in float32, and as much again to rank them

Scores = Callable[[NDArray[np.int32]], NDArray[np.float32]]


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
        ``precision_at_<k>``, ``recall_at_<k>``, ``ndcg_at_<k>`` and ``users``, how many were averaged over; the metrics
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
    for block in users.to_frame().iter_slices(max(1, BLOCK_SCORES // n_items)):
        rows = block.to_series().to_numpy()
        ranked = _rank(scores(rows), _pairs_of(seen, rows), k)
        sums += _sum_metrics(ranked, rows, _pairs_of(relevant, rows), options.k)
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


def _sum_metrics(
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
