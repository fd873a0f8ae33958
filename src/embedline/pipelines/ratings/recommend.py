"""The items that a model would recommend to each user: the highest scores among those the user has not rated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.ratings.counts import RatedItems
from embedline.pipelines.ratings.encoder import UNKNOWN, RatingsEncoder
from embedline.pipelines.ratings.fold_in import fold_in, group_given
from embedline.pipelines.ratings.fold_in_options import FoldInOptions
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import Penalty, RecommendationOptions
from embedline.pipelines.ratings.ranking import top_items
from embedline.pipelines.ratings.titles import item_titles
from embedline.pipelines.ratings.vectors import item_vectors, score_pairs, user_vectors
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
        DataError: if ``recommendation.users`` names a user whom the model does not know.
    """
    encoder = model.encoder
    users = chosen_users(encoder, options)
    rated = RatedItems(encoded, len(encoder.users))
    size = max(1, BLOCK_SCORES // (len(encoder.items) + 1))
    blocks = []
    for start in range(0, len(users), size):
        rows = users[start : start + size]
        scores = model.scores(rows)
        places, taken = rated.of(rows)
        scores[places, taken - 1] = -np.inf
        blocks.append((rows, *top_items(scores, options.k)))
    rows_of = [np.repeat(rows, best.shape[1]) for rows, best, _ in blocks]
    found = [
        np.concatenate(part) for part in zip(*((best.ravel(), one.ravel()) for _, best, one in blocks), strict=True)
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
    folding: FoldInOptions,
    penalty: Penalty,
    items: Any = None,
) -> pl.DataFrame:
    """The k best items for a new user of whom some ratings are known, without the rated ones.

    Args:
        item_rows: rows of the rated items, int [N]; a row 0 is passed over.
        ratings: float [N].
        penalty: that of the model's training.

    Returns:
        ``rank``, ``item``, ``title`` and ``score``, as of :func:`recommend`.
    """
    known = item_rows > 0
    given = group_given(np.zeros(int(known.sum()), dtype=np.int64), item_rows[known], ratings[known], 1)
    everything, outputs = np.arange(1, len(model.encoder.items) + 1), []
    for network in model.networks:
        vectors = fold_in(network, given, user_vectors(network, np.zeros(1, dtype=np.int64)), folding, penalty)
        outputs.append(
            score_pairs(network, vectors, np.zeros_like(everything), item_vectors(network, everything), everything - 1)
        )
    scores = weighted_mean(outputs, model.weights).astype(np.float32)[None]
    scores[0, item_rows[known] - 1] = -np.inf
    best, values = top_items(scores, k)
    listed = _list(model, best[0], values[0], np.arange(1, best.shape[1] + 1), items)
    return listed.filter(pl.col("item").is_not_null())


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
