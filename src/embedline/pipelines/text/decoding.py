"""From a language model's distributions to token ids: sampling, beam search, the next words. Ids in, ids out.

The algorithms ask of a model only what :class:`LanguageModel` lists, so that they can be checked against a small model
whose probabilities are known exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text.recurrent import State, select_rows

READ_TOKENS = 1024  # of a prompt in one forward pass: bounds the memory that a long prompt takes


class LanguageModel(Protocol):
    """A network that reads token ids with a carried state; in evaluation mode, so that nothing is dropped."""

    def start(self, batch_size: int, /) -> State:
        """State before the first token."""
        ...

    def __call__(self, ids: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Hidden vectors [B, T, E] of the tokens int64 [B, T], and the state after the last of them."""
        ...

    def logits(self, hidden: Tensor, /) -> Tensor:
        """Scores [..., V] of the next token, given hidden vectors [..., E]."""
        ...


@dataclass(frozen=True)
class Continuation:
    """Tokens that a model went on with, and the natural logarithm of their joint probability under the model.

    The probability is the model's own, before temperature and filters, so that it compares across settings. A
    continuation that ended has its end token as the last one.
    """

    ids: tuple[int, ...]
    log_probability: float


@dataclass(frozen=True)
class Law:
    """How the model's distribution is changed before a token is drawn.

    The order is: tokens never drawn, temperature, top-k, min-p, then the rest is scaled to one.

    Attributes:
        temperature: logits are divided by it; 0 always takes the most probable token.
        top_k: draw from the ``top_k`` most probable tokens only; all of them if None.
        min_p: draw from tokens with ``p >= min_p * max(p)`` only (Nguyen et al. 2024, arXiv 2407.01082).
        never: ids that are not drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    never: tuple[int, ...] = ()

    def probabilities(self, log_p: Tensor) -> Tensor:
        """Probabilities float64 [B, V] to draw from, given the model's log-probabilities float64 [B, V]."""
        scores = without(log_p, self.never)
        if self.temperature == 0.0:
            return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        # The largest becomes 0 first: the others may become minus infinity, but never all of them.
        scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            best = scores.topk(self.top_k, dim=-1)  # exactly k, also where probabilities are equal
            scores = torch.full_like(scores, -math.inf).scatter_(-1, best.indices, best.values)
        if self.min_p > 0.0:
            # A ratio of probabilities is a difference of logits; the margin keeps a token exactly at the border.
            border = scores.amax(-1, keepdim=True) + math.log(self.min_p) - 1e-9
            scores = scores.masked_fill(scores < border, -math.inf)
        return torch.softmax(scores, dim=-1)


def without(log_p: Tensor, never: Sequence[int]) -> Tensor:
    """``log_p`` [..., V] with minus infinity at the ids ``never``."""
    if not never:
        return log_p
    return log_p.index_fill(-1, torch.tensor(never, device=log_p.device), -math.inf)


@torch.no_grad()
def read(model: LanguageModel, prompt: Sequence[int]) -> tuple[Tensor, State]:
    """Log-probabilities float64 [1, V] of the token after ``prompt``, and the state there.

    Raises:
        ValueError: if the prompt holds no token.
    """
    if not prompt:
        raise ValueError("a language model needs at least one token to start from")
    state = model.start(1)
    device = state[0][0].device
    for start in range(0, len(prompt), READ_TOKENS):
        ids = torch.tensor([prompt[start : start + READ_TOKENS]], dtype=torch.int64, device=device)
        hidden, state = model(ids, state)
    return _log_probabilities(model, hidden), state


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompt: Sequence[int],
    law: Law,
    *,
    n_tokens: int,
    n_samples: int = 1,
    seed: int = 0,
    ends: Sequence[int] = (),
) -> list[Continuation]:
    """Draw ``n_samples`` continuations of ``prompt``, all in one batch; the prompt is read once.

    Sample ``i`` draws from a random stream of its own, given by ``seed`` and ``i``: it is the same text on a CPU and a
    GPU (up to rounding), whatever else ran in the process and however many samples are asked for.

    Args:
        n_tokens: length of each continuation, unless it ends before.
        ends: ids that end a continuation when drawn.
    """
    log_p, state = read(model, prompt)
    log_p, state = (
        log_p.expand(n_samples, -1),
        select_rows(state, torch.zeros(n_samples, dtype=torch.int64, device=log_p.device)),
    )
    draws = np.stack([np.random.default_rng((seed, row)).random(n_tokens) for row in range(n_samples)])
    ids = torch.empty((n_samples, n_tokens), dtype=torch.int64)
    total = torch.zeros(n_samples, dtype=torch.float64)
    length = torch.full((n_samples,), n_tokens)
    running = torch.ones(n_samples, dtype=torch.bool)
    for step in range(n_tokens):
        token = _draw(law.probabilities(log_p), torch.from_numpy(draws[:, step]).to(log_p.device))
        drawn = log_p.gather(-1, token[:, None]).squeeze(-1).cpu()
        ids[:, step] = token.cpu()
        total = torch.where(running, total + drawn, total)
        ended = running & torch.isin(ids[:, step], torch.tensor(ends, dtype=torch.int64))
        length[ended] = step + 1
        running &= ~ended
        if step == n_tokens - 1 or not running.any():
            break
        hidden, state = model(token[:, None], state)
        log_p = _log_probabilities(model, hidden)
    return [
        Continuation(tuple(row[:end].tolist()), float(value))
        for row, end, value in zip(ids, length.tolist(), total, strict=True)
    ]


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Ids int64 [B] by inversion of the cumulative distribution of ``probabilities`` [B, V] at ``uniform`` [B]."""
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    # Below the last value also after rounding, so that a token of probability 0 at the end is never taken.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)


def beam_score(log_probability: float, length: int, penalty: float) -> float:
    """Score of a beam: ``log p / ((5 + length) / 6) ** penalty`` (Wu et al. 2016, eq. 14); penalty 0 is ``log p``."""
    return log_probability / ((5 + length) / 6) ** penalty


@torch.no_grad()
def beam_search(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    n_tokens: int,
    beams: int,
    length_penalty: float = 0.0,
    ends: Sequence[int] = (),
    never: Sequence[int] = (),
) -> list[Continuation]:
    """The continuations of ``n_tokens`` tokens, or up to an end, with the highest :func:`beam_score`, best first.

    At each step the ``beams`` best unfinished continuations stay; a width of at least the number of all unfinished
    continuations makes the search exhaustive. The search starts from one row, not from ``beams`` equal ones, so that
    no two beams are the same. It stops early only when no unfinished beam can come to the front any more.

    Returns:
        At most ``beams`` continuations; fewer where the model has no more that are possible.
    """
    log_p, state = read(model, prompt)
    live = [Continuation((), 0.0)]
    finished: list[Continuation] = []

    def score(beam: Continuation) -> float:
        return beam_score(beam.log_probability, len(beam.ids), length_penalty)

    for step in range(n_tokens):
        values = torch.tensor([beam.log_probability for beam in live], dtype=torch.float64, device=log_p.device)
        joint = (values[:, None] + without(log_p, never)).flatten()
        # Each live beam has len(ends) ways to end: that many candidates may go, and `beams` stay.
        best = joint.topk(min(joint.numel(), beams + len(live) * len(ends)))
        rows, tokens = best.indices.cpu() // log_p.shape[-1], (best.indices.cpu() % log_p.shape[-1]).tolist()
        grown: list[Continuation] = []
        parents: list[int] = []
        for row, token, value in zip(rows.tolist(), tokens, best.values.tolist(), strict=True):
            if value == -math.inf:
                break
            beam = Continuation((*live[row].ids, token), value)
            if token in ends:
                finished.append(beam)
            elif len(grown) < beams:
                grown.append(beam)
                parents.append(row)
        finished = sorted(finished, key=score, reverse=True)[:beams]
        live = grown
        if step == n_tokens - 1 or not live:
            break
        # log p only falls and the penalty's divisor only grows: this is the most that a live beam can reach.
        reachable = max(beam_score(beam.log_probability, n_tokens, length_penalty) for beam in live)
        if len(finished) == beams and score(finished[-1]) >= reachable:
            live = []
            break
        state = select_rows(state, torch.tensor(parents, device=log_p.device))
        hidden, state = model(torch.tensor([[beam.ids[-1]] for beam in live], device=log_p.device), state)
        log_p = _log_probabilities(model, hidden)
    return sorted([*finished, *live], key=score, reverse=True)[:beams]


def _log_probabilities(model: LanguageModel, hidden: Tensor) -> Tensor:
    """Log-probabilities float64 [B, V] after the last token of ``hidden`` [B, T, E]; float64 for exact filters."""
    logits = model.logits(hidden[:, -1]).double()
    if not bool(torch.isfinite(logits.logsumexp(-1)).all()):
        raise DataError("the language model's scores are not finite numbers: its training has diverged")
    return torch.log_softmax(logits, dim=-1)
