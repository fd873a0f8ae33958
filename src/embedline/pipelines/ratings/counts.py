"""How often each user and each item was rated in training, and the items that each user has rated."""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from embedline.pipelines.ratings.encoder import ITEM_ROW, USER_ROW, RatingsEncoder
from embedline.pipelines.ratings.options import TRAIN
from embedline.pipelines.ratings.splits import subset


class TrainingCounts(NamedTuple):
    """Training ratings by row: ``users`` int64 [n_users + 1] and ``items`` int64 [n_items + 1]; row 0 has none."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]


def training_counts(encoded: pl.DataFrame, encoder: RatingsEncoder) -> TrainingCounts:
    """Count the training rows of an encoded frame."""
    train = subset(encoded, TRAIN)
    return TrainingCounts(
        np.bincount(train[USER_ROW].to_numpy(), minlength=len(encoder.users) + 1),
        np.bincount(train[ITEM_ROW].to_numpy(), minlength=len(encoder.items) + 1),
    )


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

    def of(self, users: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Pairs of a place in ``users`` (rows, int [U]) and the row of an item that this user has rated, [N] each."""
        begins, ends = self._starts[users], self._starts[users + 1]
        places = np.repeat(np.arange(len(users)), ends - begins)
        offsets = np.arange(len(places)) - np.repeat(np.cumsum(ends - begins) - (ends - begins), ends - begins)
        return places, self._items[np.repeat(begins, ends - begins) + offsets]
