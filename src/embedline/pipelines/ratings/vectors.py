"""Vectors of users and items in one network, and the scores of any of these with one another."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedline.pipelines.ratings.network import FactorModel

PAIRS = 1 << 16  # scored at a time: bounds memory


class Vectors(NamedTuple):
    """Factors float32 [N, k] and biases float32 [N] of users or items in one network."""

    factors: Tensor
    biases: Tensor


@torch.no_grad()
def user_vectors(network: FactorModel, rows: NDArray[np.integer]) -> Vectors:
    """Vectors of users by their rows, features included; zeros of row 0, features alone of an untrained row."""
    return Vectors(*network.user_vectors(torch.as_tensor(rows)))


@torch.no_grad()
def item_vectors(network: FactorModel, rows: NDArray[np.integer]) -> Vectors:
    """Vectors of items by their rows; as :func:`user_vectors`."""
    return Vectors(*network.item_vectors(torch.as_tensor(rows)))


@torch.no_grad()
def average_item(network: FactorModel, counts: NDArray[np.integer]) -> Vectors:
    """The mean of the items' own rows over the training *ratings*, [1, k] and [1].

    Args:
        counts: training ratings of each item's row, int [n_items + 1].
    """
    own = (torch.as_tensor(counts / counts.sum()).float() @ network.items.own)[None]
    return Vectors(own[:, : network.factors], own[:, -1] if network.bias else own.new_zeros(1))


@torch.no_grad()
def score_pairs(
    network: FactorModel,
    users: Vectors,
    user_places: NDArray[np.integer],
    items: Vectors,
    item_places: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Scores float32 [N] of pairs of a place int [N] in ``users`` and one in ``items``."""
    scores = np.empty(len(user_places), dtype=np.float32)
    for start in range(0, len(scores), PAIRS):
        block = slice(start, start + PAIRS)
        of_user, of_item = torch.as_tensor(user_places[block]), torch.as_tensor(item_places[block])
        scores[block] = network.from_vectors(
            users.factors[of_user], users.biases[of_user], items.factors[of_item], items.biases[of_item]
        ).numpy()
    return scores
