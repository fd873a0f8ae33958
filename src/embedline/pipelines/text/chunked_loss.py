"""Cross-entropy over a large vocabulary, computed in chunks of tokens to save memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_LOGITS = {"cpu": 4_500_000, "cuda": 100_000_000}  # logits of a chunk: fit a CPU's caches, 0.4 GB of a GPU
GROUPS = {"cpu": 8, "cuda": 1}  # chunks for one matrix product of the decoder's gradient: additions cost more


def chunk_length(vocabulary_size: int, device: torch.device) -> int:
    """Number of tokens whose logits are computed at a time."""
    return max(16, CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"]) // vocabulary_size)


class GradientsInForward(torch.autograd.Function):
    """A mean over tokens whose forward pass computes the gradients, too; the backward pass scales them."""

    @staticmethod
    def keep(ctx: FunctionCtx, gradients: Sequence[Tensor | None], n_tokens: int, n_others: int) -> None:
        """Keep the gradients of the sum over the tokens, for the first arguments; ``n_others`` are without one."""
        ctx.save_for_backward(*gradients)  # type: ignore[arg-type]
        ctx.n_tokens, ctx.n_others = n_tokens, n_others  # type: ignore[attr-defined]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Any, ...]:
        scale = gradient / ctx.n_tokens  # type: ignore[attr-defined]
        made = ctx.saved_tensors  # type: ignore[attr-defined]
        return *(None if each is None else each * scale for each in made), *[None] * ctx.n_others  # type: ignore[attr-defined]


class _ChunkedCrossEntropy(GradientsInForward):
    """Mean cross-entropy; the forward pass also computes the gradients, chunk by chunk.

    The gradient of the logits is softmax minus one-hot: one more pass over logits that are in memory. A backward pass
    that recomputes the logits would repeat the largest matrix product of the training.
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
        for rows, logits, errors, grouped in _probabilities(low, table, bias, targets):
            target = targets[rows].unsqueeze(1)
            # The log of the sum comes from the most probable word: the target's probability may be 0 in float32.
            log_sum = logits.amax(1).float() - errors.amax(1).log()
            total += (log_sum - logits.gather(1, target).squeeze(1).float()).sum()
            errors.scatter_add_(1, target, errors.new_full((1, 1), -1.0).expand_as(target))
            if for_bias is not None:
                for_bias += errors.sum(0)
            lowered = logits.copy_(errors)  # reuse the memory of the logits, which are no longer needed
            if for_hidden is not None:
                for_hidden[rows] = lowered @ table
            if for_weight is not None and grouped is not None:
                for_weight += grouped.t() @ low[rows.stop - len(grouped) : rows.stop]
        GradientsInForward.keep(ctx, (for_hidden, for_weight, for_bias), len(targets), n_others=2)
        return total / len(targets)


def _probabilities(
    hidden: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield slices of tokens, their logits [n, V] in the precision of ``hidden``, and probabilities float32 [n, V].

    The tensors are overwritten by later slices: allocating memory of this size for each slice would cost as much as the
    softmax. The last slice of each group also yields the memory of the logits of the whole group [m, V], else None.
    """
    n_tokens, step = len(targets), min(chunk_length(len(table), hidden.device), len(targets))
    in_group = GROUPS.get(hidden.device.type, 1)
    transposed = table.t().contiguous()  # the fastest layout for matrix units
    group = hidden.new_empty(min(in_group * step, n_tokens), len(table))
    memory = hidden.new_empty(step, len(table), dtype=torch.float32)
    for start in range(0, n_tokens, step):
        rows = slice(start, min(start + step, n_tokens))
        place = start % (in_group * step)
        logits, probabilities = group[place : place + rows.stop - start], memory[: rows.stop - start]
        torch.mm(hidden[rows], transposed, out=logits)
        if bias is not None:
            logits += bias.to(logits.dtype)
        probabilities.copy_(logits)
        torch.softmax(probabilities, 1, out=probabilities)
        is_last = rows.stop == n_tokens or rows.stop % (in_group * step) == 0
        yield rows, logits, probabilities, group[: place + len(logits)] if is_last else None


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean cross-entropy float [], in nats, of the logits ``hidden @ weight.T + bias`` against ``targets``.

    The matrix products run in the precision of the enclosing autocast, softmax and sums in float32.

    **Shape**: ``hidden`` float [N, E], ``weight`` float [V, E], ``bias`` float [V] or None, ``targets`` int64 [N].
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden.float(), weight, bias, targets, dtype)
    return loss


@torch.no_grad()
def count_nats(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies float [], in nats, and number int64 [] of tokens whose best prediction is the target.

    The caller divides the sums over all batches once, so that each token has the same weight. Arguments as in
    :func:`cross_entropy`; the matrix products run in the precision of ``hidden``.
    """
    nats, hits = torch.zeros((), device=hidden.device), torch.zeros((), dtype=torch.int64, device=hidden.device)
    for rows, logits, probabilities, _ in _probabilities(hidden, weight.to(hidden.dtype), bias, targets):
        target = targets[rows].unsqueeze(1)
        best, word = probabilities.max(1)
        log_sum = logits.gather(1, word.unsqueeze(1)).squeeze(1).float() - best.log()
        nats += (log_sum - logits.gather(1, target).squeeze(1).float()).sum()
        hits += (word == targets[rows]).sum()
    return nats, hits
