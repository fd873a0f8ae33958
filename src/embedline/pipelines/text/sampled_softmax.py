"""Cross-entropy over a sample of the vocabulary, for the training of a language model; evaluations use all of it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from embedline.pipelines.text.chunked_loss import GradientsInForward

CHUNK_TOKENS = 1_120  # tokens that share a sample of words; their logits stay in a processor's caches

Sample = tuple[Tensor, Tensor]


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

    def draw(self, n_samples: int = 1) -> list[Sample]:
        """Draw samples of ids int64 [K]; each with minus the logarithm of its words' probabilities, float32 [K].

        Each sample has these probabilities; together the samples of a call cover the vocabulary evenly.
        """
        start = torch.rand((), dtype=torch.float64, device=self._edges.device)
        found = []
        for number in range(n_samples):
            words = (self._edges + (start + number / n_samples)).floor().diff().nonzero().squeeze(1)
            found.append((words, self._corrections[words]))
        return found


class _SampledCrossEntropy(GradientsInForward):
    """Mean cross-entropy; the forward pass also computes the gradients, chunk by chunk, as in :mod:`.chunked_loss`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        samples: Sequence[Sample],
        dtype: torch.dtype,
    ) -> Tensor:
        low, own = hidden.to(dtype), weight[targets]
        scores = (hidden * own).sum(1)  # of the targets, float32 [N]
        if bias is not None:
            scores = scores + bias[targets]
        for_hidden, for_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for_bias = torch.zeros_like(bias) if bias is not None else None
        errors, places = torch.empty_like(scores), torch.full((len(weight),), -1, device=weight.device)
        total = torch.zeros((), device=hidden.device)
        for rows, (words, corrections) in zip(_chunks(len(targets), len(samples)), samples, strict=True):
            table = weight[words].to(dtype)
            logits = torch.mm(low[rows], table.t()).float()
            logits += corrections if bias is None else corrections + bias[words]
            places[words] = torch.arange(len(words), device=weight.device)
            place = places[targets[rows]]
            drawn = (place >= 0).nonzero().squeeze(1)
            logits[drawn, place[drawn]] = -torch.inf  # a target counts once, with its own score
            places[words] = -1
            highest = torch.maximum(logits.amax(1), scores[rows])
            shares = logits.sub_(highest.unsqueeze(1)).exp_()
            target = (scores[rows] - highest).exp()
            sums = shares.sum(1) + target
            total += (sums.log() + highest - scores[rows]).sum()
            shares /= sums.unsqueeze(1)
            errors[rows] = target / sums - 1.0
            lowered = shares.to(dtype)
            for_hidden[rows] = (lowered @ table).float()
            for_weight.index_add_(0, words, (lowered.t() @ low[rows]).float())
            if for_bias is not None:
                for_bias.index_add_(0, words, shares.sum(0))
        for_hidden.addcmul_(errors.unsqueeze(1), own)
        for_weight.index_add_(0, targets, errors.unsqueeze(1) * hidden)
        if for_bias is not None:
            for_bias.index_add_(0, targets, errors)
        GradientsInForward.keep(ctx, (for_hidden, for_weight, for_bias), len(targets), n_others=3)
        return total / len(targets)


def _chunks(n_tokens: int, n_chunks: int) -> list[slice]:
    """Cut ``n_tokens`` into chunks whose sizes differ by one at most."""
    ends = [n_tokens * (number + 1) // n_chunks for number in range(n_chunks)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def count_samples(n_tokens: int) -> int:
    """Number of samples for the loss of ``n_tokens`` tokens: one for each chunk of :data:`CHUNK_TOKENS`, rounded."""
    return max(1, round(n_tokens / CHUNK_TOKENS))


def sampled_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, samples: Sequence[Sample]
) -> Tensor:
    """Estimate the mean cross-entropy float [], in nats, of :func:`.chunked_loss.cross_entropy` from some words.

    The sum over the vocabulary in the softmax's denominator is estimated without bias (Horvitz & Thompson 1952): each
    word of a sample counts 1 / (its probability of being drawn) times, the target once (Jean et al. 2015,
    arXiv:1412.2007, with exact probabilities). ``samples`` are those of :meth:`WordSampler.draw`; the tokens are cut
    into as many chunks, and each has its own.

    **Shape**: ``hidden`` float [N, E], ``weight`` float [V, E], ``bias`` float [V] or None, ``targets`` int64 [N].
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        loss: Tensor = _SampledCrossEntropy.apply(hidden.float(), weight, bias, targets, samples, dtype)
    return loss
