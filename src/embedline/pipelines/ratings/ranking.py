"""The best items of each user, out of the scores of all items."""

import numpy as np
from numpy.typing import NDArray

from embedline.pipelines.ratings.encoder import UNKNOWN


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
