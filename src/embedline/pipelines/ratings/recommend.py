"""Recommendations: the items with the highest scores among those that a user has not rated."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import TRAIN, subset
from embedline.pipelines.ratings.encoder import UNKNOWN, RatingsEncoder, named_items
from embedline.pipelines.ratings.evaluation import RatedItems, rank_items, top_items
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import FoldInOptions, Penalty, RecommendationOptions
from embedline.training.ensemble import weighted_mean


def recommend(
    encoded: pl.DataFrame, model: RatingModel, options: RecommendationOptions, items: Any = None
) -> pl.DataFrame:
    """The ``options.k`` best items for each user, without those of the user's training ratings.

    Items that training never saw are among them where they have features. Users come in the order of
    ``options.users``, or of their rows; one who has rated nearly everything has fewer than k items. Where scores are
    equal the item with the lower row comes first.

    Returns:
        ``user`` and ``item`` (ids), ``rank`` (Int32, from 1), ``title`` and ``score`` (Float32).

    Raises:
        DataError: if ``recommendation.users`` names an unknown user.
    """
    encoder = model.encoder
    users, n_items = chosen_users(encoder, options), len(encoder.items)
    rated = RatedItems(subset(encoded, TRAIN), len(encoder.users))
    blocks = list(rank_items(model.scores, users, rated, n_items, options.k))
    best, values = (np.concatenate([block[place] for block in blocks]) for place in (1, 2))
    ranks = np.tile(np.arange(1, best.shape[1] + 1), len(users))
    listed = _list(model, best.ravel(), values.ravel(), ranks, items)
    ids = pl.Series("user", encoder.users).gather(np.repeat(users, best.shape[1]) - 1)
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


def _list(
    model: RatingModel, rows: NDArray[np.integer], scores: NDArray[np.floating], ranks: NDArray[np.integer], items: Any
) -> pl.DataFrame:
    """Items by their rows [N], null where the row is 0: ``rank``, ``item``, ``title`` and ``score``."""
    places = pl.Series(np.where(rows > 0, rows - 1, -1)).set(pl.Series(rows == UNKNOWN), None)
    named = named_items(model.encoder, items).select(pl.all().gather(places))
    return named.select(
        pl.Series("rank", ranks, dtype=pl.Int32), "item", "title", pl.Series("score", scores, dtype=pl.Float32)
    )


def chosen_users(encoder: RatingsEncoder, options: RecommendationOptions) -> NDArray[np.int32]:
    """Rows int32 [N] of the users in ``recommendation.users``; of all who have training ratings for ``all``."""
    if options.users == "all":
        return np.arange(1, encoder.trained_users + 1, dtype=np.int32)
    row_of = {user: row for row, user in enumerate(encoder.users, start=1)}
    if unknown := [user for user in options.users if user not in row_of]:
        shown = ", ".join(map(repr, encoder.users[:3]))
        raise DataError(
            f"recommendation.users names {unknown[0]!r}, a user of whom the model knows nothing; "
            f"it knows {len(encoder.users):,}, such as {shown}"
        )
    return np.array([row_of[user] for user in options.users], dtype=np.int32)
