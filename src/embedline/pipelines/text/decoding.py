"""Sampling and beam search with a language model: token ids in, token ids out.

The functions use only the methods of the protocol :class:`NextTokenModel`, so that tests can check them with a small
model whose probabilities are known exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text.awd_lstm import State, select_rows

READ_TOKENS = 1024  # tokens of a prompt in one forward pass: limits the memory for a long prompt


class NextTokenModel(Protocol):
    """A language model that reads token ids and carries a state; it must be in evaluation mode (no dropout)."""

    def start(self, batch_size: int, /) -> State:
        """Return the state before the first token."""
        ...

    def __call__(self, ids: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Return the hidden vectors float [B, T, E] of the tokens int64 [B, T], and the state after the last token."""
        ...

    def logits(self, hidden: Tensor, /) -> Tensor:
        """Return the scores float [..., V] of the next token, given hidden vectors float [..., E]."""
        ...


@dataclass(frozen=True)
class Continuation:
    """Tokens that follow a prompt, and the natural logarithm of their joint probability under the model.

    The probability is computed before temperature and filters, so that it is comparable across settings. A continuation
    that ended includes its end token as the last one.
    """

    ids: tuple[int, ...]
    log_probability: float


@dataclass(frozen=True)
class SamplingOptions:
    """Changes to the model's distribution before a token is drawn.

    They apply in this order: ``never``, ``temperature``, ``top_k``, ``min_p``; then the probabilities are scaled to
    sum to one.

    Attributes:
        temperature: divisor of the logits; 0 always takes the most probable token.
        top_k: draw only from the ``top_k`` most probable tokens; None: from all.
        min_p: draw only from tokens with ``p >= min_p * max(p)`` (Nguyen et al. 2024, arXiv 2407.01082).
        never: ids that are not drawn.
    """

    temperature: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    never: tuple[int, ...] = ()

    def probabilities(self, log_p: Tensor) -> Tensor:
        """Return the probabilities float64 [B, V] to draw from, given the model's log-probabilities float64 [B, V]."""
        scores = mask_tokens(log_p, self.never)
        if self.temperature == 0.0:
            return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        # Subtract the largest score first: scores may become minus infinity, but never all of them.
        scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            best = scores.topk(self.top_k, dim=-1)  # exactly k tokens, even if probabilities are equal
            scores = torch.full_like(scores, -math.inf).scatter_(-1, best.indices, best.values)
        if self.min_p > 0.0:
            # A ratio of probabilities is a difference of logits; the margin keeps a token exactly on the border.
            border = scores.amax(-1, keepdim=True) + math.log(self.min_p) - 1e-9
            scores = scores.masked_fill(scores < border, -math.inf)
        return torch.softmax(scores, dim=-1)


def mask_tokens(log_p: Tensor, never: Sequence[int]) -> Tensor:
    """Set the log-probabilities [..., V] of the ids ``never`` to minus infinity."""
    if not never:
        return log_p
    return log_p.index_fill(-1, torch.tensor(never, device=log_p.device), -math.inf)


@torch.no_grad()
def read_prompt(model: NextTokenModel, prompt: Sequence[int]) -> tuple[Tensor, State]:
    """Return the log-probabilities float64 [1, V] of the token after ``prompt``, and the state after it.

    Raises:
        ValueError: if the prompt is empty.
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
    model: NextTokenModel,
    prompt: Sequence[int],
    options: SamplingOptions,
    *,
    n_tokens: int,
    n_samples: int = 1,
    seed: int = 0,
    ends: Sequence[int] = (),
) -> list[Continuation]:
    """Draw ``n_samples`` continuations of ``prompt`` in one batch; the prompt is read once.

    Each sample ``i`` has its own random generator, seeded by ``seed`` and ``i``. The text therefore does not depend on
    the device (up to rounding), on other draws in the process, or on ``n_samples``.

    Args:
        n_tokens: maximum length of each continuation.
        ends: ids that end a continuation.
    """
    log_p, state = read_prompt(model, prompt)
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
        token = _draw(options.probabilities(log_p), torch.from_numpy(draws[:, step]).to(log_p.device))
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
    """Draw ids int64 [B]: invert the cumulative distribution of ``probabilities`` [B, V] at ``uniform`` [B]."""
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    # Rounding must not reach the last value: a token of probability 0 at the end would be drawn.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)


def beam_score(log_probability: float, length: int, penalty: float) -> float:
    """Score of a beam: ``log p / ((5 + length) / 6) ** penalty`` (Wu et al. 2016, eq. 14); penalty 0 is ``log p``."""
    return log_probability / ((5 + length) / 6) ** penalty


@torch.no_grad()
def beam_search(
    model: NextTokenModel,
    prompt: Sequence[int],
    *,
    n_tokens: int,
    beams: int,
    length_penalty: float = 0.0,
    ends: Sequence[int] = (),
    never: Sequence[int] = (),
) -> list[Continuation]:
    """Search the continuations of ``n_tokens`` tokens, or fewer up to an end, with the highest :func:`beam_score`.

    Each step keeps the ``beams`` best unfinished continuations; the search is exhaustive if ``beams`` is at least the
    number of all unfinished continuations. It starts from one row instead of ``beams`` equal ones, so that no two beams
    are equal. It stops early only when no unfinished beam can still win.

    Returns:
        At most ``beams`` continuations, best first; fewer if the model has no more possible ones.
    """
    log_p, state = read_prompt(model, prompt)
    live = [Continuation((), 0.0)]
    finished: list[Continuation] = []

    def score(beam: Continuation) -> float:
        return beam_score(beam.log_probability, len(beam.ids), length_penalty)

    for step in range(n_tokens):
        values = torch.tensor([beam.log_probability for beam in live], dtype=torch.float64, device=log_p.device)
        joint = (values[:, None] + mask_tokens(log_p, never)).flatten()
        # Each live beam can end in len(ends) ways: besides those candidates, `beams` unfinished ones are needed.
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
        # log p only falls and the penalty's divisor only grows: no live beam can score more than this.
        reachable = max(beam_score(beam.log_probability, n_tokens, length_penalty) for beam in live)
        if len(finished) == beams and score(finished[-1]) >= reachable:
            live = []
            break
        state = select_rows(state, torch.tensor(parents, device=log_p.device))
        hidden, state = model(torch.tensor([[beam.ids[-1]] for beam in live], device=log_p.device), state)
        log_p = _log_probabilities(model, hidden)
    return sorted([*finished, *live], key=score, reverse=True)[:beams]


def _log_probabilities(model: NextTokenModel, hidden: Tensor) -> Tensor:
    """Return log-probabilities float64 [B, V] after the last token of ``hidden`` [B, T, E]."""
    logits = model.logits(hidden[:, -1]).double()
    if not bool(torch.isfinite(logits.logsumexp(-1)).all()):
        raise DataError("the language model's scores are not finite numbers: its training has diverged")
    return torch.log_softmax(logits, dim=-1)
