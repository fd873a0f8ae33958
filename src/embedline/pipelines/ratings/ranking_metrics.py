"""Lists of the best items of each user, and how good they are: against held-out ratings, and as lists."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from embedline.pipelines.ratings.contract import TEST, TRAIN, subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, UNKNOWN, USER_ROW, RatingsEncoder, training_counts
from embedline.pipelines.ratings.options import RankingOptions
from embedline.training.metrics import paired_difference

BLOCK_SCORES = 2**24  # scores of a block of users: 64 MB in float32, and as much again to rank them
OF_USERS = ("precision", "recall", "ndcg", "mrr")
COUNT_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the classes of training ratings, up to the next one
COUNT_LABELS = [f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(COUNT_EDGES)]
COUNT_LABELS.append(f"{COUNT_EDGES[-1]}+")
SLOW_BLOCKS = 5  # more blocks of users than this have a progress bar

Scores = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""New scores float32 [n, n_items] of all items, row 0 left out, for user rows int32 [n]; -inf: not in the ranking."""


def count_class(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place in :data:`COUNT_LABELS` of numbers of training ratings [N]."""
    return np.searchsorted(np.asarray(COUNT_EDGES), counts, side="right") - 1


def top_items(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k highest of scores float32 [U, I], the highest first, and the lower place first of equal ones.

    Rows of the items, int64 [U, k] (place + 1; 0 where nothing is left to recommend: -inf), and their scores.
    """
    k = min(k, scores.shape[1])
    best = torch.topk(torch.from_numpy(scores), k, dim=1)
    values, places = best.values.numpy(), best.indices.numpy()
    # The k-th highest score may come several times: of these the lower places are to be kept, and topk takes any.
    tied = np.flatnonzero((scores >= values[:, -1:]).sum(axis=1) > k)
    above, at = scores[tied] > values[tied, -1:], scores[tied] == values[tied, -1:]
    wanted = above | (at & (np.cumsum(at, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    places[tied] = np.nonzero(wanted)[1].reshape(len(tied), k)
    values = np.take_along_axis(scores, places, axis=1)
    order = np.lexsort((places, -values))
    places, values = np.take_along_axis(places, order, axis=1), np.take_along_axis(values, order, axis=1)
    return np.where(np.isneginf(values), UNKNOWN, places + 1), values


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
    starts = range(0, len(users), size)
    quiet = True if len(starts) <= SLOW_BLOCKS else None  # None: a bar where there is a terminal
    for start in tqdm(starts, desc="ranking", unit="block", disable=quiet, leave=False):
        rows = users[start : start + size]
        of_all = scores(rows)
        places, items = rated.pairs(rows)
        of_all[places, items - 1] = -np.inf
        yield rows, *top_items(of_all, k)


@dataclass(frozen=True)
class ListMetrics:
    """Metrics of the lists of one ranker.

    Attributes:
        users: ``precision``, ``recall``, ``ndcg`` and ``mrr`` of each ranked user, float64 [n] each, in the order of
            the users' rows.
        lists: ``coverage``, ``novelty`` and, where items have features, ``diversity``.
        k: length of the lists.
        groups: ``by_user_ratings``: mean ``ndcg`` of the ``users`` by the number of their training ratings;
            ``by_item_ratings``: ``recall`` of the ``relevant`` pairs by that of the item.
    """

    users: dict[str, NDArray[np.float64]]
    lists: dict[str, float | None]
    k: int
    groups: dict[str, dict[str, dict[str, Any]]]

    def summary(self) -> dict[str, Any]:
        """Means over the users as ``ndcg_at_<k>``, None without a user; ``ranked_users``; and those of the lists."""
        n = len(self.users["ndcg"])
        means = {f"{name}_at_{self.k}": float(values.mean()) if n else None for name, values in self.users.items()}
        return {**means, **self.lists, "ranked_users": n}

    @property
    def ndcg(self) -> float | None:
        """Mean NDCG over the users; None without one."""
        return float(self.users["ndcg"].mean()) if len(self.users["ndcg"]) else None

    def interval(self) -> dict[str, float]:
        """The 95 % interval of the mean NDCG by the bootstrap over users: ``ndcg_at_<k>_low`` and ``…_high``."""
        ndcg = self.users["ndcg"]
        if not len(ndcg):
            return {}
        found = paired_difference(ndcg, np.zeros_like(ndcg))
        return {f"ndcg_at_{self.k}_{end}": found[end] for end in ("low", "high")}

    def difference(self, other: "ListMetrics") -> dict[str, Any]:
        """Mean NDCG less that of ``other`` over the same users, of :func:`.metrics.paired_difference`."""
        return paired_difference(self.users["ndcg"], other.users["ndcg"], higher_is_better=True)


def measure_lists(
    scores: Scores, encoded: pl.DataFrame, encoder: RatingsEncoder, options: RankingOptions
) -> ListMetrics:
    """Measure the first ``options.k`` items of each user's ranking.

    Every user with training ratings and a relevant held-out item (its rating at least ``options.relevant``; of events
    any) ranks all items but those that the user rated in training. A relevant item that is unknown to the encoder is in
    nobody's list and counts as missed.

    * precision: hits over k; recall: hits over relevant items; mrr: 1 / place of the first hit, 0 without one.
    * ndcg (Järvelin & Kekäläinen 2002) with a gain of 1 for a relevant item: ``sum over hits of 1 / log2(1 + place)``
      over its largest possible value.
    * coverage: the share of all items that are in anybody's list.
    * novelty: mean self-information of a listed item, ``-log2`` of the share of users who have rated it in training, in
      bits (Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma"); an item without any counts as one.
    * diversity: mean over the lists of 1 - cosine of the features, over all pairs in a list (Ziegler et al. 2005,
      "Improving recommendation lists through topic diversification").
    """
    relevant = relevant_pairs(encoded, encoder, options)
    users, n_items, k = relevant[USER_ROW].unique().sort().to_numpy(), len(encoder.items), options.k
    found: list[NDArray[np.float64]] = []
    listed, hits = np.zeros((2, n_items + 1), dtype=np.int64)
    distances: list[NDArray[np.float64]] = []
    features = unit_features(encoder)
    last = int(users[-1]) if len(users) else 0
    seen, wanted = (RatedItems(rows, last) for rows in (subset(encoded, TRAIN), relevant))
    for rows, ranked, _ in rank_items(scores, users, seen, n_items, k):
        found.append(_user_metrics(ranked, *wanted.pairs(rows), k))
        listed += np.bincount(ranked.ravel(), minlength=n_items + 1)
        if features is not None:
            distances.append(list_distances(features, ranked))
        at = wanted.pairs(rows)
        hits += np.bincount(at[1][(ranked[at[0]] == at[1][:, None]).any(axis=1)], minlength=n_items + 1)
    of_users = np.concatenate(found, axis=1) if found else np.empty((len(OF_USERS), 0))
    listed[UNKNOWN] = 0
    total = int(listed.sum())
    counts = training_counts(encoded, encoder)
    shares = np.maximum(counts.items, 1) / max(1, int((counts.users > 0).sum()))
    lists: dict[str, float | None] = {
        "coverage": float((listed > 0).sum() / n_items) if total else None,
        "novelty": float(-(listed * np.log2(shares)).sum() / total) if total else None,
    }
    if features is not None:
        apart = np.concatenate(distances) if distances else np.empty(0)
        lists["diversity"] = float(np.nanmean(apart)) if np.isfinite(apart).any() else None
    pairs = np.bincount(relevant[ITEM_ROW].to_numpy(), minlength=n_items + 1)
    groups = {
        "by_user_ratings": _by_class(counts.users[users], np.ones(len(users)), of_users[2], "users", "ndcg"),
        "by_item_ratings": _by_class(counts.items, pairs, hits, "relevant", "recall"),
    }
    return ListMetrics(dict(zip(OF_USERS, of_users, strict=True)), lists, k, groups)


def _by_class(
    counts: NDArray[np.integer], weights: NDArray[Any], sums: NDArray[Any], unit: str, name: str
) -> dict[str, dict[str, Any]]:
    """By class of ``counts`` [N] the sum of ``weights`` as ``unit``, and that of ``sums`` over it as ``name``."""
    totals, parts = (np.bincount(count_class(counts), one, len(COUNT_LABELS)) for one in (weights, sums))
    rows = zip(COUNT_LABELS, totals, parts, strict=True)
    return {label: {unit: int(total), name: float(part / total)} for label, total, part in rows if total}


def relevant_pairs(encoded: pl.DataFrame, encoder: RatingsEncoder, options: RankingOptions) -> pl.DataFrame:
    """Held-out user and item rows that are relevant, of users with training ratings; no pair twice."""
    known = pl.col(USER_ROW).is_between(1, encoder.trained_users)
    least = pl.lit(True) if encoder.columns.rating is None else pl.col(RATING) >= options.relevant
    return subset(encoded, TEST).filter(known & least).select(USER_ROW, ITEM_ROW).unique()


def _user_metrics(
    ranked: NDArray[np.int64], places: NDArray[np.int64], relevant: NDArray[np.int32], k: int
) -> NDArray[np.float64]:
    """Precision, recall, NDCG and MRR of each user, float64 [4, U].

    ``ranked`` are rows of the items of each user's ranking, [U, k] or fewer; ``places`` the user, a row of ``ranked``,
    of each relevant item, [N], rising, and ``relevant`` its row, [N].
    """
    width = max(int(ranked.max()), int(relevant.max())) + 1
    hits = np.isin(np.arange(len(ranked))[:, None] * width + ranked, places * width + relevant) & (ranked != UNKNOWN)
    wanted = np.bincount(places, minlength=len(ranked))
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(gains)[np.minimum(wanted, k) - 1]
    found = hits.sum(axis=1)
    ndcg = (hits * gains[: hits.shape[1]]).sum(axis=1) / ideal
    first = np.where(found > 0, 1.0 / (1 + hits.argmax(axis=1)), 0.0)
    return np.stack([found / k, found / wanted, ndcg, first])


def unit_features(encoder: RatingsEncoder) -> NDArray[np.float32] | None:
    """Features of the items as vectors of length 1 (or 0), float32 [n_items + 1, F]; None without features."""
    if not encoder.item_features.size:
        return None
    codes = encoder.item_feature_codes
    dense = np.zeros((len(codes), encoder.item_features.size + 1), dtype=np.float32)
    np.put_along_axis(dense, codes, encoder.item_features.weights(codes), axis=1)
    dense[:, 0] = 0.0
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    return np.divide(dense, lengths, out=dense, where=lengths > 0)


def list_distances(features: NDArray[np.float32], ranked: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of 1 - cosine over the pairs of each list, float64 [U]; NaN of a list of fewer than two items.

    The cosines of all pairs add up to ``(|sum of the vectors|² - sum of |vector|²) / 2``.
    """
    vectors = features[ranked].astype(np.float64)  # [U, k, F]; row 0, nothing, has no features
    n = (ranked != UNKNOWN).sum(axis=1)
    pairs = n * (n - 1) / 2
    total = ((vectors.sum(axis=1) ** 2).sum(axis=1) - (vectors**2).sum(axis=(1, 2))) / 2
    return np.where(pairs > 0, 1.0 - total / np.maximum(pairs, 1), np.nan)
