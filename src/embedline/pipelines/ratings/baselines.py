"""Baselines that the network has to beat: the mean rating, and damped biases of users and items."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.ratings.contract import subset
from embedline.pipelines.ratings.encoder import ITEM_ROW, RATING, USER_ROW, RatingsEncoder
from embedline.pipelines.ratings.options import TRAIN, BaselineOptions


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
        """Scores float32 [n, n_items] of all items, row 0 left out: the same order for every user."""
        return (self.mean + self.user[user_rows][:, None] + self.item[None, 1:]).astype(np.float32)


def fit_biases(encoded: pl.DataFrame, encoder: RatingsEncoder, options: BaselineOptions) -> Biases:
    """Damped biases of the training ratings."""
    train = subset(encoded, TRAIN)
    return damped_biases(
        train[USER_ROW].to_numpy(),
        train[ITEM_ROW].to_numpy(),
        train[RATING].to_numpy(),
        len(encoder.users),
        len(encoder.items),
        options.user_damping,
        options.item_damping,
    )


def damped_biases(
    train_user_rows: NDArray[np.integer],
    train_item_rows: NDArray[np.integer],
    ratings: NDArray[np.floating],
    n_users: int,
    n_items: int,
    user_damping: float,
    item_damping: float,
) -> Biases:
    """Biases that shrink towards 0 where there are few ratings, as LensKit's ``BiasScorer``.

    With ``mu`` the mean rating and ``n`` the number of ratings of an item, or of a user::

        b_i = sum(r - mu) / (n + item_damping)
        b_u = sum(r - mu - b_i) / (n + user_damping)

    Args:
        train_user_rows: int [N], from 1.
        train_item_rows: int [N], from 1.
        ratings: float [N].
    """
    mean = float(np.mean(ratings, dtype=np.float64))
    residual = ratings.astype(np.float64)
    residual -= mean
    item = _damped(train_item_rows, residual, n_items, item_damping)
    residual -= item[train_item_rows]
    return Biases(mean, _damped(train_user_rows, residual, n_users, user_damping), item)


def _damped(rows: NDArray[np.integer], residual: NDArray[np.float64], size: int, damping: float) -> NDArray[np.float64]:
    counts = np.bincount(rows, minlength=size + 1) + damping
    sums = np.bincount(rows, residual, minlength=size + 1)
    sums[0] = 0.0  # row 0 is the unknown one
    return np.divide(sums, counts, out=np.zeros(size + 1), where=counts > 0)
