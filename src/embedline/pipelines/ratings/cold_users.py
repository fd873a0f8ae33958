"""The cold start of users: ratings of users who were never seen in training, of whom a few ratings are given."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.errors import DataError
from embedline.pipelines.ratings.baselines import Biases
from embedline.pipelines.ratings.cold_items import errors
from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in, group_given
from embedline.pipelines.ratings.fold_in_options import FoldInOptions
from embedline.pipelines.ratings.learner import RatingModel
from embedline.pipelines.ratings.options import BaselineOptions, ColdStartOptions, Penalty
from embedline.pipelines.ratings.vectors import item_vectors, score_pairs, user_vectors
from embedline.training.ensemble import weighted_mean


class _Ordered(NamedTuple):
    """New users' ratings, user by user, those of one in a random order.

    Attributes:
        user: number of the new user, int [N].
        item: row of the item, int [N].
        rating: float64 [N].
        rank: place among the user's ratings, from 0, int [N].
        counts: ratings of each user, int [users].
    """

    user: NDArray[np.integer]
    item: NDArray[np.integer]
    rating: NDArray[np.float64]
    rank: NDArray[np.integer]
    counts: NDArray[np.integer]


def measure_users(
    rows: pl.DataFrame,
    model: RatingModel,
    biases: Biases,
    baselines: BaselineOptions,
    folding: FoldInOptions,
    penalty: Penalty,
    options: ColdStartOptions,
) -> dict[str, Any]:
    """Predict ratings of new users, given 0 of their ratings and each number in ``options.given``.

    Of each user the first ratings of one random order are given to every method, and those behind the largest number
    are predicted, whatever the number: all figures are of the same rows. Users with too few ratings are left out.

    Args:
        rows: ratings of new users, of items that the model knows.
        biases: damped ones of the model's training ratings.
        penalty: that of the model's training.

    Returns:
        ``rows``, ``users``, ``users_left_out``, and ``given``: for each number, as a string, ``mse`` and ``rmse`` of
        the model, and of ``damped_bias`` in ``baselines``: the items' biases, and a bias of the user that is fitted on
        the given ratings.

    Raises:
        DataError: if no user has more ratings than the largest number.
    """
    encoder = model.encoder
    columns, most = encoder.columns, max(options.given)
    new, user = np.unique(rows[columns.user].to_numpy(), return_inverse=True)
    ordered = _shuffle(
        user, encoder.item_rows(rows[columns.item]), rows[columns.rating].to_numpy(), seed=(options.seed, 1)
    )
    enough = (ordered.counts > most)[ordered.user]
    asked = enough & (ordered.rank >= most)
    if not asked.any():
        raise DataError(
            f"cold_start.given takes {most} ratings of a new user, and needs more to predict: "
            f"the busiest of {len(new):,} held-out users has {int(ordered.counts.max()):,}"
        )
    new_rows = encoder.user_rows(pl.Series(new))
    places, item_rows, actual = ordered.user[asked], ordered.item[asked], ordered.rating[asked]
    results = {}
    for n in (0, *sorted(set(options.given))):
        some = enough & (ordered.rank < n)
        given = group_given(ordered.user[some], ordered.item[some], ordered.rating[some], len(new))
        outputs = []
        for network in model.networks:
            vectors = fold_in(network, given, user_vectors(network, new_rows), folding, penalty)
            items = item_vectors(network, np.arange(len(encoder.items) + 1))
            outputs.append(score_pairs(network, vectors, places, items, item_rows))
        theirs = biases.mean + biases.item[item_rows] + new_biases(given, biases, baselines.user_damping)[places]
        results[str(n)] = {
            **errors(weighted_mean(outputs, model.weights), actual, encoder.rating_range),
            "baselines": {"damped_bias": errors(theirs, actual, encoder.rating_range)},
        }
    kept = int((ordered.counts > most).sum())
    return {"rows": len(actual), "users": kept, "users_left_out": len(new) - kept, "given": results}


def new_biases(given: KnownRatings, biases: Biases, damping: float) -> NDArray[np.float64]:
    """Damped biases float64 [given.n_users] of new users; 0 of a user without a rating."""
    residual = given.rating - biases.mean - biases.item[given.item]
    counts = np.bincount(given.user, minlength=given.n_users) + damping
    sums = np.bincount(given.user, residual, minlength=given.n_users)
    return np.divide(sums, counts, out=np.zeros(given.n_users), where=counts > 0)


def _shuffle(
    user: NDArray[np.integer], item: NDArray[np.integer], rating: NDArray[np.floating], *, seed: Sequence[int]
) -> _Ordered:
    order = np.random.default_rng(seed).permutation(len(user))
    order = order[np.argsort(user[order], kind="stable")]
    counts = np.bincount(user)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Ordered(user[order], item[order], rating[order].astype(np.float64), rank, counts)
