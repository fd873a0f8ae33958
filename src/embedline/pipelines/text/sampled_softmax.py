"""Cross-entropy over a sample of the vocabulary, for the training of a language model; evaluations use all of it."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_LOGITS = 2_500_000  # logits of a chunk of tokens, float32: they stay in a processor's caches


class WordSampler:
    """Draws about ``size`` of the words 0 … V - 1 without replacement; the frequent ones, which come first, more often.

    A word of rank r is drawn with the probability ``min(1, c / (r + 1))``, where c makes the probabilities add up to
    ``size``: the law of Zipf. Systematic sampling (Madow 1949) keeps to these probabilities exactly: the first words
    are always drawn, and of each run of later ones whose probabilities add up to 1 there is one.
    """

    def __init__(self, vocabulary_size: int, size: int, device: torch.device) -> None:
        if size >= vocabulary_size:
            raise ValueError(f"a sample of {size} words needs a larger vocabulary than {vocabulary_size}")
        zipf = 1.0 / torch.arange(1, vocabulary_size + 1, dtype=torch.float64)
        low, high = 0.0, float(vocabulary_size)
        for _ in range(100):  # bisection: the sum grows with c
            factor = (low + high) / 2
            low, high = (factor, high) if (factor * zipf).clamp(max=1.0).sum() < size else (low, factor)
        probabilities = (high * zipf).clamp(max=1.0)
        self._edges = torch.cat([torch.zeros(1, dtype=torch.float64), probabilities.cumsum(0)]).to(device)
        self._corrections = (-probabilities.log()).float().to(device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Ids int64 [K] of one sample, and for each word float32 [K] minus the logarithm of its probability."""
        start = torch.rand((), dtype=torch.float64, device=self._edges.device)
        words = (self._edges + start).floor().diff().nonzero().squeeze(1)
        return words, self._corrections[words]


class _SampledCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy; the forward pass also computes the gradients, chunk by chunk, as in :mod:`.chunked_loss`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        words: Tensor,
        corrections: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        n_tokens, low = len(targets), hidden.to(dtype)
        table, own = weight[words].to(dtype), weight[targets]
        transposed = table.t().contiguous()
        offsets = corrections if bias is None else corrections + bias[words]
        scores = (hidden * own).sum(1)  # of the targets, float32 [N]
        if bias is not None:
            scores = scores + bias[targets]
        places = torch.full((len(weight),), -1, device=weight.device)
        places[words] = torch.arange(len(words), device=weight.device)
        places = places[targets]
        for_hidden, for_sample = torch.empty_like(hidden), torch.zeros_like(weight[words])
        for_offsets, errors = torch.zeros_like(offsets), torch.empty_like(scores)
        total = torch.zeros((), device=hidden.device)
        step = max(16, CHUNK_LOGITS // len(words))
        for start in range(0, n_tokens, step):
            rows = slice(start, start + step)
            logits = torch.mm(low[rows], transposed).float().add_(offsets)
            drawn = (places[rows] >= 0).nonzero().squeeze(1)
            logits[drawn, places[rows][drawn]] = -torch.inf  # a target counts once, with its own score
            highest = torch.maximum(logits.amax(1), scores[rows])
            shares = logits.sub_(highest.unsqueeze(1)).exp_()
            target = (scores[rows] - highest).exp()
            sums = shares.sum(1) + target
            total += (sums.log() + highest - scores[rows]).sum()
            shares /= sums.unsqueeze(1)
            errors[rows] = target / sums - 1.0
            lowered = shares.to(dtype)
            for_hidden[rows] = lowered @ table
            for_sample += lowered.t() @ low[rows]
            for_offsets += shares.sum(0)
        for_hidden.addcmul_(errors.unsqueeze(1), own)
        for_weight = torch.zeros_like(weight).index_add_(0, words, for_sample)
        for_weight.index_add_(0, targets, errors.unsqueeze(1) * hidden)
        for_bias = None
        if bias is not None:
            for_bias = torch.zeros_like(bias).index_add_(0, words, for_offsets).index_add_(0, targets, errors)
        ctx.save_for_backward(for_hidden, for_weight, for_bias)  # type: ignore[arg-type]
        ctx.n_tokens = n_tokens  # type: ignore[attr-defined]
        return total / n_tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Any, ...]:
        scale = gradient / ctx.n_tokens  # type: ignore[attr-defined]
        made = ctx.saved_tensors  # type: ignore[attr-defined]
        return *(None if each is None else each * scale for each in made), None, None, None, None


def sampled_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, words: Tensor, corrections: Tensor
) -> Tensor:
    """Estimate the mean cross-entropy float [], in nats, of :func:`.chunked_loss.cross_entropy` from some words.

    The sum over the vocabulary in the softmax's denominator is estimated without bias (Horvitz & Thompson 1952): each
    word of the sample counts 1 / (its probability of being drawn) times, the target once (Jean et al. 2015,
    arXiv:1412.2007, with exact probabilities). The words are the same for all tokens.

    **Shape**: ``hidden`` float [N, E], ``weight`` float [V, E], ``bias`` float [V] or None, ``targets`` int64 [N];
    ``words`` int64 [K] and ``corrections`` float32 [K] of :meth:`WordSampler.draw`.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        loss: Tensor = _SampledCrossEntropy.apply(hidden.float(), weight, bias, targets, words, corrections, dtype)
    return loss
