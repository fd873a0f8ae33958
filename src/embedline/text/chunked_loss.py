"""Cross-entropy over a vocabulary without the logits of all tokens in memory at once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_LOGITS = {"cpu": 4_500_000, "cuda": 100_000_000}  # logits at a time: a CPU's caches, 0.4 GB of a GPU


def chunk_length(vocabulary_size: int, device: torch.device) -> int:
    """Tokens whose logits are computed at a time."""
    return max(16, CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"]) // vocabulary_size)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy, whose gradients are made with the loss, chunk by chunk.

    The gradient of the logits, softmax minus one-hot, is one more pass over logits that are there; computing them again
    in a backward pass would cost the largest matrix product of the training a second time.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        for_hidden = torch.empty_like(hidden) if wanted[0] else None
        for_weight = torch.zeros_like(weight) if wanted[1] else None
        for_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        low, table = hidden.to(dtype), weight.to(dtype)
        total = torch.zeros((), device=hidden.device)
        for rows, logs in _log_probabilities(low, table, bias, targets):
            target = targets[rows].unsqueeze(1)
            total -= logs.gather(1, target).sum()
            errors = logs.exp_()
            errors.scatter_add_(1, target, errors.new_full((1, 1), -1.0).expand_as(target))
            if for_bias is not None:
                for_bias += errors.sum(0)
            errors = errors.to(dtype)
            if for_hidden is not None:
                for_hidden[rows] = errors @ table
            if for_weight is not None:
                for_weight += errors.t() @ low[rows]
        ctx.save_for_backward(for_hidden, for_weight, for_bias)  # type: ignore[arg-type]
        ctx.n_tokens = len(targets)  # type: ignore[attr-defined]
        return total / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Any, ...]:
        scale = gradient / ctx.n_tokens  # type: ignore[attr-defined]
        made = ctx.saved_tensors  # type: ignore[attr-defined]
        return *(None if each is None else each * scale for each in made), None, None


def _log_probabilities(
    hidden: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities float32 [n, V] of the next token, for a slice of the tokens at a time."""
    step = chunk_length(len(table), hidden.device)
    transposed = table.t().contiguous()  # the layout in which matrix units are quickest
    for start in range(0, len(targets), step):
        rows = slice(start, start + step)
        logits = hidden[rows] @ transposed
        if bias is not None:
            logits += bias.to(logits.dtype)
        yield rows, torch.log_softmax(logits, dim=1, dtype=torch.float32)


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean cross-entropy [], in nats, of the logits ``hidden @ weight.T + bias`` against ``targets``.

    The products run in the precision of an enclosing autocast, softmax and sums in float32.

    Args:
        hidden: float [N, E].
        weight: float [V, E].
        bias: float [V], or None.
        targets: int64 [N].
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden.float(), weight, bias, targets, dtype)
    return loss


@torch.no_grad()
def count_nats(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies [] in nats, and number of tokens [] whose most probable one is the target.

    Sums, to be divided once: batches of other lengths then count by their tokens. Arguments as in
    :func:`cross_entropy`, in the precision of ``hidden``.
    """
    nats, hits = torch.zeros((), device=hidden.device), torch.zeros((), dtype=torch.int64, device=hidden.device)
    for rows, logs in _log_probabilities(hidden, weight.to(hidden.dtype), bias, targets):
        nats -= logs.gather(1, targets[rows].unsqueeze(1)).sum()
        hits += (logs.argmax(1) == targets[rows]).sum()
    return nats, hits
