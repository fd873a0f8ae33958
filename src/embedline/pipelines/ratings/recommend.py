"""Recommendations: the items with the highest scores of the ranker among those that a user has not rated."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.ratings.contract import TRAIN, subset
from embedline.pipelines.ratings.encoder import UNKNOWN, RatingsEncoder, named_items
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import FoldInOptions, Penalty, RecommendationOptions
from embedline.pipelines.ratings.ranking import Recommender, new_user_ratings
from embedline.pipelines.ratings.ranking_metrics import RatedItems, rank_items, top_items


def recommend(
    encoded: pl.DataFrame, recommender: Recommender, options: RecommendationOptions, items: Any = None
) -> pl.DataFrame:
    """The ``options.k`` best items for each user, without those of the user's training ratings.

    Items that training never saw are among them where they have features. Users come in the order of ``options.users``,
    an unknown one of which is a DataError, or of their rows; one who has rated nearly everything has fewer than k
    items. Where scores are equal the item with the lower row comes first.

    Returns:
        ``user`` and ``item`` (ids), ``rank`` (Int32, from 1), ``title``, ``score`` (Float32, the ranker's: it orders
        the items of one user and has no unit) and, with a rating model, ``predicted`` (Float32): the rating that the
        user would give, within the rating range.
    """
    encoder = recommender.encoder
    users, n_items = chosen_users(encoder, options), len(encoder.items)
    rated = RatedItems(subset(encoded, TRAIN), len(encoder.users))
    blocks = list(rank_items(recommender.scores, users, rated, n_items, options.k))
    best, values = (np.concatenate([block[place] for block in blocks]) for place in (1, 2))
    user_rows, rows = np.repeat(users, best.shape[1]), best.ravel()
    ranks = np.tile(np.arange(1, best.shape[1] + 1), len(users))
    listed = _list(encoder, rows, values.ravel(), ranks, items)
    ids = pl.Series("user", encoder.users).gather(user_rows - 1)
    if recommender.model is not None:
        listed = listed.with_columns(predicted_ratings(recommender.model, ids, listed["item"]))
    return listed.insert_column(0, ids).filter(pl.col("item").is_not_null())


def predicted_ratings(model: RatingModel, users: pl.Series, items: pl.Series) -> pl.Series:
    """Predicted ratings ``predicted`` Float32 of pairs of ids, within the rating range; null where the item is."""
    rows = model.encoder.user_rows(users), model.encoder.item_rows(items)
    predicted = pl.Series("predicted", model.predict(*rows), dtype=pl.Float32)
    return predicted.set(items.is_null(), None)


def recommend_for_ratings(
    recommender: Recommender,
    item_rows: NDArray[np.integer],
    ratings: NDArray[np.floating],
    k: int,
    *,
    options: FoldInOptions,
    penalty: Penalty,
    items: Any = None,
) -> pl.DataFrame:
    """The k best items for a new user with some known ratings float [N], without the rated items.

    ``item_rows`` int [N], of which a 0 is passed over; ``options`` and ``penalty``, that of the training, are of the
    fold-in for the predicted ratings. Returns ``rank``, ``item``, ``title``, ``score`` and, with a rating model,
    ``predicted``.
    """
    encoder, model = recommender.encoder, recommender.model
    scores = recommender.new_user_scores(item_rows, ratings, options, penalty)[None]
    scores[0, item_rows[item_rows > 0] - 1] = -np.inf
    best, values = top_items(scores, k)
    listed = _list(encoder, best[0], values[0], np.arange(1, best.shape[1] + 1), items)
    if model is not None:
        own = np.append(UNKNOWN, model.encoder.item_rows(pl.Series(encoder.items)))  # of a run before or after, perhaps
        theirs = np.append(
            model.encoder.rating_mean, new_user_ratings(model, own[item_rows], ratings, options, penalty)
        )
        predicted = np.clip(theirs, *model.encoder.rating_range)[own[best[0]]]
        listed = listed.with_columns(pl.Series("predicted", predicted, dtype=pl.Float32))
    return listed.filter(pl.col("item").is_not_null())


def _list(
    encoder: RatingsEncoder,
    rows: NDArray[np.integer],
    scores: NDArray[np.floating],
    ranks: NDArray[np.integer],
    items: Any,
) -> pl.DataFrame:
    """Items by their rows [N], null where the row is 0: ``rank``, ``item``, ``title`` and ``score``."""
    places = pl.Series(np.where(rows > 0, rows - 1, -1)).set(pl.Series(rows == UNKNOWN), None)
    named = named_items(encoder, items).select(pl.all().gather(places))
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
