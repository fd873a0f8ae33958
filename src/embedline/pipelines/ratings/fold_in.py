"""Fold-in: vectors of new users from a handful of ratings, without training the model again.

For each user the sum of squared errors of the known ratings plus a ridge penalty is minimised over the user's own row
(vector and bias) alone; items stay as they are. A plain product is linear in that row, so that one Gauss-Newton step is
the closed form of ridge regression; a sigmoid or hidden layers take a few steps, each damped until it improves
(Levenberg 1944, Marquardt 1963). Many users are solved at a time, with no random number anywhere.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from embedline.pipelines.ratings.network import FactorModel, Vectors
from embedline.pipelines.ratings.options import FoldInOptions, Penalty

BLOCK_NUMBERS = 1 << 22  # numbers in the largest array of a block of users: 32 MB in float64
STEP_DAMPING = 1e-3  # at which the damping of a nonlinear step starts, relative to the curvature
MOST_DAMPING = 1e9  # a step that improves nothing at this damping ends the search
LEAST_GAIN = 1e-7  # of the objective, relative: a smaller one ends the search


class KnownRatings(NamedTuple):
    """Known ratings of ``n_users`` new users, some of them perhaps without a rating.

    Attributes:
        user: number of the new user from 0, int [N], in rising order.
        item: row of the item, int [N]; 0 for an unknown one.
        rating: float [N].
    """

    user: NDArray[np.integer]
    item: NDArray[np.integer]
    rating: NDArray[np.floating]
    n_users: int

    @classmethod
    def by_user(
        cls, users: ArrayLike, items: NDArray[np.integer], ratings: NDArray[np.floating], n_users: int
    ) -> "KnownRatings":
        """Sort ratings [N] by user, the order that :func:`fold_in` needs; the ratings of one user keep their order."""
        user = np.asarray(users)
        order = np.argsort(user, kind="stable")
        return cls(user[order], items[order], ratings[order], n_users)


def fold_in(
    model: FactorModel, known: KnownRatings, base: Vectors, options: FoldInOptions, penalty: Penalty
) -> Vectors:
    """Vectors of new users from their ratings, on the CPU.

    The objective of a user with n ratings r, own row (p, b) and what the features say, ``base``, is ``sum((r -
    score(base + (p, b)))**2) + (n * penalty.factors + options.factors) * |p|**2``, and the same of the bias.

    Args:
        model: one member of an ensemble, unchanged; the axes of two members differ.
        base: of each new user what its features say, zeros where it has none, [known.n_users, k].
        penalty: that of the model's training.
    """
    factors = torch.cat([base.factors, base.biases[:, None]], dim=1).double()
    counts = np.bincount(known.user, minlength=known.n_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    order = np.argsort(counts, kind="stable")  # users with about as many ratings stand together: little padding
    order = order[counts[order] > 0]
    width = factors.shape[1]
    while len(order):
        sizes = np.arange(1, len(order) + 1) * width * np.maximum(counts[order], width)  # of blocks that end there
        users, order = np.split(order, [max(1, int(np.searchsorted(sizes, BLOCK_NUMBERS, side="right")))])
        rows = np.concatenate([np.arange(starts[user], starts[user + 1]) for user in users])
        factors[users] = _Block(model, known, rows, counts[users], factors[users]).solve(options, penalty)
    return Vectors(factors[:, :-1].float(), factors[:, -1].float())


class _Block:
    """Some users and their ratings, as padded arrays [users, most ratings of one, …]."""

    def __init__(
        self,
        model: FactorModel,
        known: KnownRatings,
        rows: NDArray[np.integer],
        counts: NDArray[np.integer],
        base: Tensor,
    ) -> None:
        self.model, self.base = model, base
        self.items = model.item_vectors(known.item[rows])
        user, first = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
        self.user, self.slot = torch.as_tensor(user), torch.as_tensor(np.arange(len(rows)) - first[user])
        self.rating = torch.as_tensor(np.asarray(known.rating[rows], dtype=np.float64))
        self.counts = torch.as_tensor(counts).double()

    def solve(self, options: FoldInOptions, penalty: Penalty) -> Tensor:
        """Rows float64 [users, k + 1] that minimise the objective."""
        pull = (self.counts * penalty.factors + options.factors)[:, None].repeat(1, self.base.shape[1])
        pull[:, -1] = self.counts * penalty.biases + options.biases
        free = torch.ones(self.base.shape[1], dtype=torch.float64)
        free[-1] = float(self.model.bias)  # a model without biases has no place for one
        own = torch.zeros_like(self.base)
        error, slopes = self._linearise(own)
        value = self._objective(error, own, pull)
        damping = torch.zeros(len(own), dtype=torch.float64)
        linear = self.model.hidden is None and self.model.y_range is None  # whose first step is exact
        for _ in range(1 if linear else options.iterations):
            slopes = slopes * free
            curvature = slopes.mT @ slopes + torch.diag_embed(pull)
            gradient = (slopes.mT @ error[..., None])[..., 0] - pull * own
            active = torch.ones(len(own), dtype=torch.bool)
            before = value
            while active.any() and float(damping[active].min()) < MOST_DAMPING:
                damped = curvature + torch.diag_embed(damping[:, None] * curvature.diagonal(dim1=1, dim2=2))
                step = torch.linalg.solve(damped, gradient) * active[:, None]
                reached = self._objective(self._errors(own + step), own + step, pull)
                better = active & (reached <= value)
                own = torch.where(better[:, None], own + step, own)
                value = torch.where(better, reached, value)
                active &= ~better
                damping = torch.where(active, (10 * damping).clamp(min=STEP_DAMPING), damping / 10)
            if bool((before - value <= LEAST_GAIN * before).all()):
                break
            error, slopes = self._linearise(own)
        return self.base + own

    def _scores(self, rows: Tensor) -> Tensor:
        """Scores float32 [N] of the ratings by users' whole rows, one for each rating."""
        return self.model.from_vectors(rows[:, :-1], rows[:, -1], self.items.factors, self.items.biases)

    def _padded(self, values: Tensor) -> Tensor:
        padded = values.new_zeros(len(self.counts), int(self.counts.max()), *values.shape[1:])
        padded[self.user, self.slot] = values
        return padded

    def _errors(self, own: Tensor) -> Tensor:
        with torch.no_grad():
            scores = self._scores((self.base + own).float()[self.user])
        return self._padded(self.rating - scores.double())

    def _linearise(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Errors [users, most] and slopes of the scores by the row [users, most, k + 1], both float64."""
        rows = (self.base + own).float()[self.user].requires_grad_()  # a row of its own for each rating
        with torch.enable_grad():
            scores = self._scores(rows)
            (slopes,) = torch.autograd.grad(scores.sum(), rows)
        return self._padded(self.rating - scores.detach().double()), self._padded(slopes.double())

    @staticmethod
    def _objective(error: Tensor, own: Tensor, pull: Tensor) -> Tensor:
        return (error**2).sum(dim=1) + (pull * own**2).sum(dim=1)
