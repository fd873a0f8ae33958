"""Batches of ratings, and the penalty on the vectors of the users and items in a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedline.pipelines.ratings.network import FactorModel, add_terms
from embedline.pipelines.ratings.options import Penalty
from embedline.training.batches import Autocast, BatchLoss, Loss, TableBatches
from embedline.training.lr_finder import RandomRows


class _Squares(torch.autograd.Function):
    """Sum of ``weights * square`` over some matrices [B, W], weights [W], in one node: -> []."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, *matrices: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *matrices)
        total = matrices[0].new_zeros(weights.shape)
        for matrix in matrices:
            total += (matrix * matrix).sum(0)
        return torch.dot(total, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *matrices = ctx.saved_tensors  # type: ignore[attr-defined]
        scaled = weights * (2.0 * gradient)
        return None, *(matrix * scaled for matrix in matrices)


def penalty_weights(penalty: Penalty, factors: int, bias: bool) -> Tensor | None:
    """Weight of the square of each column of the vectors, float32 [W]; None without a penalty."""
    if not penalty.factors and not penalty.biases:
        return None
    return torch.tensor([penalty.factors] * factors + [penalty.biases] * bias)


class RatingBatches(TableBatches):
    """Batches cut by index from user rows, item rows (int32 [N] each) and ratings (float32 [N]).

    The loss of a batch is the mean over its rows, plus the penalty (:class:`.options.Penalty`): the mean over its rows
    of the weighted squares of the user's and the item's own vectors and of their features' sums. The reported loss
    leaves the penalty out.

    Args:
        weights: of :func:`penalty_weights`.
        settings: more of :class:`TableBatches`.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        loss: Loss,
        weights: Tensor | None,
        *,
        batch_size: int,
        device: torch.device,
        **settings: Any,
    ) -> None:
        super().__init__(tensors, loss, batch_size=batch_size, device=device, **settings)
        self._weights = weights.to(device) if weights is not None else None

    def loss_of(self, network: nn.Module, rows: Tensor, autocast: Autocast) -> BatchLoss:
        """Loss of some rows, int64 [B]."""
        assert isinstance(network, FactorModel)
        users, items, ratings = self.gather(rows)
        user_terms, item_terms = network.users(users), network.items(items)
        user, item = add_terms(user_terms), add_terms(item_terms)
        if network.hidden is None:  # nothing of a product gains by low precision
            score = network.score(user, item)
        else:
            with autocast():
                score = network.score(user, item)
        value = self._loss(score, ratings)
        if self._weights is None:
            return BatchLoss(value, value)
        return BatchLoss(value + _Squares.apply(self._weights / len(rows), *user_terms, *item_terms), value)


class RandomRatings(RandomRows, RatingBatches):
    """Batches of ratings drawn with replacement, for a learning-rate range test."""
