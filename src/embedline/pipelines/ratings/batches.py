"""Batches of ratings, and the penalty on the vectors that a batch concerns."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedline.pipelines.ratings.network import FactorModel
from embedline.pipelines.ratings.options import Penalty
from embedline.pipelines.ratings.sides import sum_of
from embedline.training.batches import Autocast, BatchLoss, Loss, TableBatches
from embedline.training.lr_finder import RandomRows


class _Squares(torch.autograd.Function):
    """Sum of ``weights * square`` over some matrices [B, W], weights [W], in one node: -> []."""

    @staticmethod
    def forward(ctx: FunctionCtx, weights: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *parts)
        total = parts[0].new_zeros(weights.shape)
        for part in parts:
            total += (part * part).sum(0)
        return torch.dot(total, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *parts = ctx.saved_tensors  # type: ignore[attr-defined]
        scaled = weights * (2.0 * gradient)
        return None, *(part * scaled for part in parts)


def penalty_weights(penalty: Penalty, factors: int, bias: bool) -> Tensor | None:
    """Weight of the square of each column of the vectors, float32 [W]; None without a penalty."""
    if not penalty.factors and not penalty.biases:
        return None
    return torch.tensor([penalty.factors] * factors + [penalty.biases] * bias)


class RatingBatches(TableBatches):
    """Batches cut by index from user rows, item rows (int32 [N] each) and ratings (float32 [N]).

    To the loss of a batch, the mean over its rows, comes the mean over its rows of the weighted squares of the user's
    and the item's own vectors and of their features' sums (:class:`.options.Penalty`); the reported
    loss is without it.

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
        user_parts, item_parts = network.users.parts(users), network.items.parts(items)
        user, item = sum_of(user_parts), sum_of(item_parts)
        if network.hidden is None:  # nothing of a product gains by low precision
            score = network.score(user, item)
        else:
            with autocast():
                score = network.score(user, item)
        value = self._loss(score, ratings)
        if self._weights is None:
            return BatchLoss(value, value)
        return BatchLoss(value + _Squares.apply(self._weights / len(rows), *user_parts, *item_parts), value)


class RandomRatings(RandomRows, RatingBatches):
    """Batches of ratings drawn with replacement, for a learning-rate range test."""
