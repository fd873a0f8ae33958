"""Recommendations: the items with the highest scores among those that a user has not rated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import item_titles, subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, UNKNOWN, USER_ROW, RatingsEncoder
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import TRAIN, FoldInOptions, Penalty, RecommendationOptions
from embedline.pipelines.ratings.ranking import top_items
from embedline.training.ensemble import weighted_mean

BLOCK_SCORES = 1 << 24  # scores computed at a time: 64 MB in float32


def recommend(
    encoded: pl.DataFrame, model: RatingModel, options: RecommendationOptions, items: Any = None
) -> pl.DataFrame:
    """The ``options.k`` best items for each user, without those of the user's training ratings.

    Items that training never saw are among them where they have features. Users come in the order of
    ``options.users``, or of their rows; a user who has rated nearly everything has fewer
    than k items. Where scores are equal the item with the lower row comes first.

    Returns:
        ``user`` and ``item`` (ids), ``rank`` (Int32, from 1), ``title`` and ``score`` (Float32).

    Raises:
        DataError: if ``recommendation.users`` names an unknown user.
    """
    encoder = model.encoder
    users = chosen_users(encoder, options)
    rated = RatedItems(encoded, len(encoder.users))
    size = max(1, BLOCK_SCORES // (len(encoder.items) + 1))
    blocks = []
    for start in range(0, len(users), size):
        rows = users[start : start + size]
        scores = model.scores(rows)
        places, taken = rated.pairs(rows)
        scores[places, taken - 1] = -np.inf
        blocks.append((rows, *top_items(scores, options.k)))
    rows_of = [np.repeat(rows, best.shape[1]) for rows, best, _ in blocks]
    found = [
        np.concatenate(arrays) for arrays in zip(*((best.ravel(), one.ravel()) for _, best, one in blocks), strict=True)
    ]
    ranks = np.concatenate([np.tile(np.arange(1, best.shape[1] + 1), len(best)) for _, best, _ in blocks])
    listed = _list(model, found[0], found[1], ranks, items)
    ids = pl.Series("user", encoder.users).gather(np.concatenate(rows_of) - 1)
    return listed.insert_column(0, ids).filter(pl.col("item").is_not_null())


def recommend_for_ratings(
    model: RatingModel,
    item_rows: NDArray[np.integer],
    ratings: NDArray[np.floating],
    k: int,
    *,
    options: FoldInOptions,
    penalty: Penalty,
    items: Any = None,
) -> pl.DataFrame:
    """The k best items for a new user with some known ratings, without the rated items.

    Args:
        item_rows: rows of the rated items, int [N]; a row 0 is passed over.
        ratings: float [N].
        penalty: that of the model's training.

    Returns:
        ``rank``, ``item``, ``title`` and ``score``, as of :func:`recommend`.
    """
    is_known = item_rows > 0
    new_user = np.zeros(int(is_known.sum()), dtype=np.int64)
    known = KnownRatings.by_user(new_user, item_rows[is_known], ratings[is_known], 1)
    everything, outputs = np.arange(1, len(model.encoder.items) + 1), []
    for network in model.networks:
        user = fold_in(network, known, network.user_vectors(np.zeros(1, dtype=np.int64)), options, penalty)
        items_of_all = network.item_vectors(everything)
        outputs.append(network.score_pairs(user, np.zeros_like(everything), items_of_all, everything - 1))
    scores = weighted_mean(outputs, model.weights).astype(np.float32)[None]
    scores[0, item_rows[is_known] - 1] = -np.inf
    best, values = top_items(scores, k)
    listed = _list(model, best[0], values[0], np.arange(1, best.shape[1] + 1), items)
    return listed.filter(pl.col("item").is_not_null())


class RatedItems:
    """The items that each user has rated in training, found without a search.

    Args:
        encoded: frame of :func:`.encoder.encode`.
        n_users: users in the encoder.
    """

    def __init__(self, encoded: pl.DataFrame, n_users: int) -> None:
        train = subset(encoded, TRAIN)
        users = train[USER_ROW].to_numpy()
        self._items = train[ITEM_ROW].to_numpy()[np.argsort(users, kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users + 1))])

    def pairs(self, users: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Pairs of a place in ``users`` (rows, int [U]) and the row of an item that this user has rated, [N] each."""
        begins, ends = self._starts[users], self._starts[users + 1]
        places = np.repeat(np.arange(len(users)), ends - begins)
        offsets = np.arange(len(places)) - np.repeat(np.cumsum(ends - begins) - (ends - begins), ends - begins)
        return places, self._items[np.repeat(begins, ends - begins) + offsets]


def _list(
    model: RatingModel, rows: NDArray[np.integer], scores: NDArray[np.floating], ranks: NDArray[np.integer], items: Any
) -> pl.DataFrame:
    """Items by their rows [N], null where the row is 0: ``rank``, ``item``, ``title`` and ``score``."""
    ids = pl.Series("item", model.encoder.items)
    places = pl.Series(np.where(rows > 0, rows - 1, -1)).set(pl.Series(rows == UNKNOWN), None)
    titles = item_titles(ids, items, model.encoder.columns)
    return pl.DataFrame(
        {
            "rank": pl.Series(ranks, dtype=pl.Int32),
            "item": ids.gather(places),
            "title": titles.gather(places),
            "score": pl.Series(scores, dtype=pl.Float32),
        }
    )


def chosen_users(encoder: RatingsEncoder, options: RecommendationOptions) -> NDArray[np.int32]:
    """Rows int32 [N] of the users in ``recommendation.users``; of all who have training ratings for ``all``."""
    if options.users == "all":
        return np.arange(1, encoder.trained_users + 1, dtype=np.int32)
    return known_rows(options.users, encoder)


def known_rows(users: Sequence[int | str], encoder: RatingsEncoder) -> NDArray[np.int32]:
    """Rows int32 [N] of users by their ids; raises a DataError where one is unknown."""
    of = {user: row for row, user in enumerate(encoder.users, start=1)}
    if unknown := [user for user in users if user not in of]:
        shown = ", ".join(map(repr, encoder.users[:3]))
        raise DataError(
            f"recommendation.users names {unknown[0]!r}, a user of whom the model knows nothing; "
            f"it knows {len(encoder.users):,}, such as {shown}"
        )
    return np.array([of[user] for user in users], dtype=np.int32)
