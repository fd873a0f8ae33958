"""Generate text with a language model: sampling and beam search, continuations and next words of prompts as frames."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text.awd_lstm import State, select_rows
from embedline.pipelines.text.language_model import LanguageModel, load_language_model
from embedline.pipelines.text.options import GenerationOptions, SampleOptions
from embedline.pipelines.text.preprocessing import BEGIN, DL1_END, END, RULES
from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_texts
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training.model_file import ModelBundle

T = TypeVar("T")
logger = logging.getLogger(__name__)

READ_TOKENS = 1024  # tokens of a prompt in one forward pass: limits the memory for a long prompt
ENDS = (BEGIN, END, DL1_END)  # tokens that end a document


def load_generator(bundle: ModelBundle) -> tuple[LanguageModel, Vocabulary, TokenOptions]:
    """Load a stored language model, on the GPU if there is one, its vocabulary and tokenizer settings."""
    model, vocabulary, tokens = load_bundle(bundle, load_language_model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), vocabulary, tokens


def load_bundle(bundle: ModelBundle, load: Callable[[Any], T]) -> T:
    """Call ``load`` on the bundle; the errors of a broken bundle become one DataError with the reason."""
    try:
        return load(bundle)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the {bundle.kind} bundle is broken: {type(error).__name__}: {reason}") from error


def write_samples(bundle: ModelBundle, samples: SampleOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generate texts and next words for each prompt: a column ``prompt``, then those of generate and next_words."""
    model, vocabulary, tokens = load_generator(bundle)
    texts, words = [], []
    for prompt in samples.prompts:
        ids = prompt_ids(prompt, vocabulary, tokens)
        column = pl.lit(prompt).alias("prompt")
        texts.append(generate(model, vocabulary, ids, samples.options).select(column, pl.all()))
        words.append(next_words(model, vocabulary, ids, samples.next_words).select(column, pl.all()))
    return pl.concat(texts), pl.concat(words)


def prompt_ids(prompt: str, vocabulary: Vocabulary, tokens: TokenOptions) -> list[int]:
    """Convert a prompt to ids: the start of a document, then the prompt's tokens, by the rules of the training texts.

    Special tokens in the prompt keep their meaning: ``xxfld 1 cs xxfld 2`` asks a model of two-field documents for the
    second field given the first. An empty prompt is only the start of a document. Words outside the vocabulary become
    the unknown token, and a warning lists them.
    """
    rules = RULES[tokens.rules]
    written = tokenize_texts([prompt], tokens)[0]
    # Remove the tokens that the rules put around a document: a prompt has no end yet.
    written = written[len(rules.before) : len(written) - len(rules.after)]
    start = [*rules.before, *rules.after][:1]  # dl1 marks only the end: a document starts after the end of another
    written = written if written[:1] == start else start + written
    ids = [int(value) for value in vocabulary.ids(written)]
    unknown = vocabulary.tokens[vocabulary.unknown]
    missing = {t: None for t, i in zip(written, ids, strict=True) if i == vocabulary.unknown and t != unknown}
    if missing:
        logger.warning("Unknown words of the prompt are read as %s: %s", unknown, first_ten([*missing]))
    return ids


def first_ten(values: Sequence[Any]) -> str:
    """Join values for a message: ``a, b``, and after ten ``… and 4 more``."""
    return ", ".join(map(str, values[:10])) + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def generate(
    model: LanguageModel, vocabulary: Vocabulary, prompt: Sequence[int], options: GenerationOptions
) -> pl.DataFrame:
    """Continue ``prompt`` (ids of :func:`prompt_ids`) by random sampling or beam search.

    Returns:
        Columns ``sample`` (i64 from 1; beams best first), ``text`` (prompt and continuation), ``tokens`` (i64, added
        tokens, with the end token) and ``mean_log_probability`` (f64, natural logarithm, mean over the added
        tokens, before temperature and filters; ``exp`` of its negative is the perplexity).
    """
    never = _never(model, vocabulary, options)
    ends = [index for index, token in enumerate(vocabulary.tokens) if token in ENDS] if options.stop else []
    search = sample if options.beams is None else beam_search
    found = search(model, prompt, options, never=never, ends=ends)
    rows = []
    for number, (ids, log_probability) in enumerate(found[: options.n_samples], start=1):
        text = vocabulary.detokenize([*prompt, *(ids[:-1] if ids[-1] in ends else ids)])
        rows.append((number, text, len(ids), log_probability / len(ids)))
    schema = {"sample": pl.Int64, "text": pl.String, "tokens": pl.Int64, "mean_log_probability": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _never(model: LanguageModel, vocabulary: Vocabulary, options: GenerationOptions) -> tuple[int, ...]:
    """Return the ids that must not be drawn, including the ids of the model that are outside the vocabulary."""
    if options.never is None:
        never = {vocabulary.unknown, vocabulary.padding}
    else:
        place = {token: index for index, token in enumerate(vocabulary.tokens)}
        if missing := [token for token in options.never if token not in place]:
            raise DataError(f"never lists {missing[0]!r}, which is no token of the vocabulary")
        never = {place[token] for token in options.never}
    width = _width(model, vocabulary)
    never |= set(range(len(vocabulary), width))
    if len(never) >= width:
        raise DataError(f"never lists all {len(vocabulary)} tokens of the vocabulary: none is left to draw")
    return tuple(sorted(never))


def _width(model: LanguageModel, vocabulary: Vocabulary) -> int:
    """Return the number of tokens that the model scores; raise a DataError if the vocabulary has more."""
    width = model.decoder.out_features
    if width < len(vocabulary):
        raise DataError(
            f"the vocabulary has {len(vocabulary)} tokens and the model knows {width}: they do not belong together"
        )
    return width


def next_words(model: LanguageModel, vocabulary: Vocabulary, prompt: Sequence[int], k: int = 10) -> pl.DataFrame:
    """The ``k`` most probable tokens after ``prompt``: ``rank`` (i64 from 1), ``word`` and ``probability`` (f64)."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    _width(model, vocabulary)
    log_p, _ = read_prompt(model, prompt)
    best = log_p[0, : len(vocabulary)].topk(min(k, len(vocabulary)))
    words = vocabulary.words(best.indices.tolist())
    return pl.DataFrame(
        {"rank": range(1, len(words) + 1), "word": words, "probability": best.values.exp().tolist()},
        schema={"rank": pl.Int64, "word": pl.String, "probability": pl.Float64},
    )


class Continuation(NamedTuple):
    """Tokens that follow a prompt, an end token included, and the natural logarithm of their joint probability.

    That of the model, before temperature and filters: it is comparable across settings.
    """

    ids: tuple[int, ...]
    log_probability: float


def sampling_probabilities(log_p: Tensor, options: GenerationOptions, never: Sequence[int] = ()) -> Tensor:
    """Return the probabilities float64 [B, V] to draw from, given the model's log-probabilities float64 [B, V].

    Changes in this order: no ids ``never``, ``temperature``, ``top_k``, ``min_p``; then the rest is scaled to sum to 1.
    """
    scores = mask_tokens(log_p, never)
    if options.temperature == 0.0:
        return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
    # Subtract the largest score first: scores may become minus infinity, but never all of them.
    scores = (scores - scores.amax(-1, keepdim=True)) / options.temperature
    if options.top_k is not None and options.top_k < scores.shape[-1]:
        best = scores.topk(options.top_k, dim=-1)  # exactly k tokens, even if probabilities are equal
        scores = torch.full_like(scores, -math.inf).scatter_(-1, best.indices, best.values)
    if options.min_p > 0.0:
        # A ratio of probabilities is a difference of logits; the margin keeps a token exactly on the border.
        border = scores.amax(-1, keepdim=True) + math.log(options.min_p) - 1e-9
        scores = scores.masked_fill(scores < border, -math.inf)
    return torch.softmax(scores, dim=-1)


def mask_tokens(log_p: Tensor, never: Sequence[int]) -> Tensor:
    """Set the log-probabilities [..., V] of the ids ``never`` to minus infinity."""
    if not never:
        return log_p
    return log_p.index_fill(-1, torch.tensor(never, device=log_p.device), -math.inf)


@torch.no_grad()
def read_prompt(model: LanguageModel, prompt: Sequence[int]) -> tuple[Tensor, State]:
    """Return the log-probabilities float64 [1, V] of the token after ``prompt``, and the state after it."""
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
    options: GenerationOptions,
    *,
    never: Sequence[int] = (),
    ends: Sequence[int] = (),
) -> list[Continuation]:
    """Draw ``options.n_samples`` continuations in one batch; the prompt is read once, ids ``ends`` end a continuation.

    Each sample ``i`` has its own random generator, seeded by ``seed`` and ``i``. The text therefore does not depend on
    the device (up to rounding), on other draws in the process, or on ``n_samples``.
    """
    n_samples, n_tokens = options.n_samples, options.n_tokens
    log_p, state = read_prompt(model, prompt)
    log_p = log_p.expand(n_samples, -1)
    state = select_rows(state, torch.zeros(n_samples, dtype=torch.int64, device=log_p.device))
    draws = np.stack([np.random.default_rng((options.seed, row)).random(n_tokens) for row in range(n_samples)])
    ids = torch.empty((n_samples, n_tokens), dtype=torch.int64)
    total = torch.zeros(n_samples, dtype=torch.float64)
    length = torch.full((n_samples,), n_tokens)
    running = torch.ones(n_samples, dtype=torch.bool)
    for step in range(n_tokens):
        uniform = torch.from_numpy(draws[:, step]).to(log_p.device)
        token = _draw(sampling_probabilities(log_p, options, never), uniform)
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
    model: LanguageModel,
    prompt: Sequence[int],
    options: GenerationOptions,
    *,
    never: Sequence[int] = (),
    ends: Sequence[int] = (),
) -> list[Continuation]:
    """Search the continuations of ``n_tokens`` tokens, or fewer up to an end, with the highest :func:`beam_score`.

    Each step keeps the ``beams`` best unfinished continuations; the search is exhaustive if ``beams`` is at least the
    number of all unfinished continuations. It starts from one row instead of ``beams`` equal ones, so that no two beams
    are equal. It stops early only when no unfinished beam can still win.

    Returns:
        At most ``beams`` continuations, best first; fewer if the model has no more possible ones.
    """
    n_tokens, beams, length_penalty = options.n_tokens, options.beams or 1, options.length_penalty
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


def _log_probabilities(model: LanguageModel, hidden: Tensor) -> Tensor:
    """Return log-probabilities float64 [B, V] after the last token of ``hidden`` [B, T, E]."""
    logits = model.logits(hidden[:, -1]).double()
    if not bool(torch.isfinite(logits.logsumexp(-1)).all()):
        raise DataError("the language model's scores are not finite numbers: its training has diverged")
    return torch.log_softmax(logits, dim=-1)
