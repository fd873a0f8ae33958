"""Generate text with a language model: continuations of prompts, and the most probable next words, as frames.

PyTorch is imported inside the functions, so that the settings are quick to import.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.errors import DataError
from embedline.pipelines.text.preprocessing import BEGIN, DL1_END, END, RULES

if TYPE_CHECKING:
    import numpy as np

    from embedline.pipelines.text.decoding import Continuation, NextTokenModel
    from embedline.pipelines.text.tokenizer import TokenOptions
    from embedline.training.model_file import ModelBundle

T = TypeVar("T")
logger = logging.getLogger(__name__)

ENDS = (BEGIN, END, DL1_END)  # tokens that end a document
SHOWN_WORDS = 10  # unknown words listed in a warning


class VocabularyLike(Protocol):
    """The methods of :class:`.vocabulary.Vocabulary` that generation and prediction use."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens in the order of their ids."""
        ...

    @property
    def specials(self) -> tuple[str, ...]:
        """Special tokens."""
        ...

    @property
    def unknown(self) -> int:
        """Id of the token for unknown words."""
        ...

    @property
    def padding(self) -> int:
        """Id of the padding token."""
        ...

    def __len__(self) -> int: ...

    def ids(self, tokens: Sequence[str], /) -> "NDArray[np.integer]":
        """Ids of tokens."""
        ...

    def words(self, ids: Sequence[int], /) -> list[str]:
        """Tokens of ids."""
        ...

    def detokenize(self, ids: Sequence[int], /) -> str:
        """Readable text of ids."""
        ...


class GenerationOptions(BaseModel):
    """How to continue a prompt.

    Attributes:
        n_tokens: number of tokens to add.
        n_samples: number of continuations to return.
        beams: width of a beam search; None: random sampling instead.
        temperature: divisor of the logits: below 1 more likely tokens, above 1 less likely ones, 0 always the most
            probable token.
        top_k: draw only from the ``top_k`` most probable tokens; None: from all.
        min_p: draw only from tokens with at least this fraction of the largest probability (Nguyen et al. 2024).
        seed: seed of the draws; the same seed gives the same text.
        length_penalty: exponent of Wu et al. 2016; above 0 it favours longer beams. It matters only if beams may end.
        stop: end the text where the model ends the document; otherwise it continues with another document.
        never: tokens that are not drawn; None: the unknown and the padding token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_tokens: int = Field(default=50, ge=1)
    n_samples: int = Field(default=1, ge=1)
    beams: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0)
    length_penalty: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    stop: bool = False
    never: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_beams(self) -> Self:
        if self.beams is None:
            if self.length_penalty:
                raise ValueError("length_penalty is a setting of the beam search: give beams too")
            return self
        if self.n_samples > self.beams:
            raise ValueError(f"{self.beams} beams give no {self.n_samples} samples: raise beams or lower n_samples")
        drawn = {"temperature": self.temperature != 1.0, "top_k": self.top_k is not None, "min_p": self.min_p > 0.0}
        if any(drawn.values()):
            names = ", ".join(name for name, given in drawn.items() if given)
            raise ValueError(f"a beam search draws nothing at random: leave out {names}, or beams")
        return self


def prompt_ids(prompt: str, vocabulary: VocabularyLike, tokens: "TokenOptions") -> list[int]:
    """Convert a prompt to ids: the start of a document, then the prompt's tokens, by the rules of the training texts.

    Special tokens in the prompt keep their meaning: ``xxfld 1 cs xxfld 2`` asks a model of two-field documents for the
    second field given the first. An empty prompt is only the start of a document. Words outside the vocabulary become
    the unknown token, and a warning lists them.
    """
    written = _prompt_tokens(prompt, tokens)
    ids = [int(value) for value in vocabulary.ids(written)]
    unknown = vocabulary.tokens[vocabulary.unknown]
    missing = list(
        dict.fromkeys(t for t, i in zip(written, ids, strict=True) if i == vocabulary.unknown and t != unknown)
    )
    if missing:
        more = f" and {len(missing) - SHOWN_WORDS} more" if len(missing) > SHOWN_WORDS else ""
        logger.warning(
            "Unknown words of the prompt are read as %s: %s%s", unknown, ", ".join(missing[:SHOWN_WORDS]), more
        )
    return ids


def _prompt_tokens(prompt: str, tokens: "TokenOptions") -> list[str]:
    from embedline.pipelines.text.tokenizer import tokenize_texts

    rules = RULES[tokens.rules]
    written = tokenize_texts([prompt], tokens)[0]
    # Remove the tokens that the rules put around a document: a prompt has no end yet.
    written = written[len(rules.before) : len(written) - len(rules.after)]
    start = [*rules.before, *rules.after][:1]  # dl1 marks only the end: a document starts after the end of another
    return written if written[:1] == start else start + written


def generate(
    model: "NextTokenModel", vocabulary: VocabularyLike, prompt: Sequence[int], options: GenerationOptions
) -> pl.DataFrame:
    """Continue ``prompt`` (ids of :func:`prompt_ids`) by random sampling or beam search.

    Returns:
        Columns ``sample`` (i64 from 1; beams best first), ``text`` (prompt and continuation), ``tokens`` (i64, added
        tokens, with the end token) and ``mean_log_probability`` (f64, natural logarithm, mean over the added
        tokens, before temperature and filters; ``exp`` of its negative is the perplexity).

    Raises:
        DataError: if the vocabulary does not belong to the model.
    """
    from embedline.pipelines.text.decoding import SamplingOptions, beam_search, sample

    never = _never(model, vocabulary, options)
    ends = [index for index, token in enumerate(vocabulary.tokens) if token in ENDS] if options.stop else []
    if options.beams is None:
        sampling = SamplingOptions(options.temperature, options.top_k, options.min_p, never)
        found = sample(
            model,
            prompt,
            sampling,
            n_tokens=options.n_tokens,
            n_samples=options.n_samples,
            seed=options.seed,
            ends=ends,
        )
    else:
        found = beam_search(
            model,
            prompt,
            n_tokens=options.n_tokens,
            beams=options.beams,
            length_penalty=options.length_penalty,
            ends=ends,
            never=never,
        )[: options.n_samples]
    return _frame(found, vocabulary, prompt, ends)


def _frame(
    found: Sequence["Continuation"], vocabulary: VocabularyLike, prompt: Sequence[int], ends: list[int]
) -> pl.DataFrame:
    rows = []
    for number, continuation in enumerate(found, start=1):
        ids = list(continuation.ids)
        shown = ids[:-1] if ids[-1] in ends else ids
        text = vocabulary.detokenize([*prompt, *shown])
        rows.append((number, text, len(ids), continuation.log_probability / len(ids)))
    schema = {"sample": pl.Int64, "text": pl.String, "tokens": pl.Int64, "mean_log_probability": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _never(model: "NextTokenModel", vocabulary: VocabularyLike, options: GenerationOptions) -> tuple[int, ...]:
    """Return the ids that must not be drawn, including the ids of the model that are outside the vocabulary."""
    if options.never is None:
        never = {vocabulary.unknown, vocabulary.padding}
    else:
        place = {token: index for index, token in enumerate(vocabulary.tokens)}
        missing = [token for token in options.never if token not in place]
        if missing:
            raise DataError(f"never lists {missing[0]!r}, which is no token of the vocabulary")
        never = {place[token] for token in options.never}
    width = _width(model, vocabulary)
    never |= set(range(len(vocabulary), width))
    if len(never) >= width:
        raise DataError(f"never lists all {len(vocabulary)} tokens of the vocabulary: none is left to draw")
    return tuple(sorted(never))


def _width(model: "NextTokenModel", vocabulary: VocabularyLike) -> int:
    """Return the number of tokens that the model scores; raise a DataError if the vocabulary has more."""
    import torch

    with torch.no_grad():
        state = model.start(1)
        hidden, _ = model(torch.zeros((1, 1), dtype=torch.int64, device=state[0][0].device), state)
        width = int(model.logits(hidden[:, -1]).shape[-1])
    if width < len(vocabulary):
        raise DataError(
            f"the vocabulary has {len(vocabulary)} tokens and the model knows {width}: they do not belong together"
        )
    return width


def next_words(model: "NextTokenModel", vocabulary: VocabularyLike, prompt: Sequence[int], k: int = 10) -> pl.DataFrame:
    """Return the ``k`` most probable tokens after ``prompt``, including special tokens.

    Returns:
        Columns ``rank`` (i64 from 1), ``word`` (the token in the vocabulary) and ``probability`` (f64).
    """
    from embedline.pipelines.text.decoding import read_prompt

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


def load_generator(bundle: "ModelBundle") -> tuple["NextTokenModel", VocabularyLike, "TokenOptions"]:
    """Load the model, vocabulary and tokenizer settings of a stored language model; on the GPU if there is one.

    Raises:
        DataError: if the bundle holds another kind of model, or is broken.
    """
    import torch

    from embedline.pipelines.text.language_learner import load_language_model

    model, vocabulary, tokens = load_bundle(bundle, load_language_model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), vocabulary, tokens


def load_bundle(bundle: "ModelBundle", load: Callable[[Any], T]) -> T:
    """Call ``load`` on the bundle; the errors of a broken bundle become one DataError with the reason."""
    try:
        return load(bundle)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the {bundle.kind} bundle is broken: {type(error).__name__}: {reason}") from error


class SampleOptions(BaseModel):
    """Settings of the sample texts of a language model.

    Attributes:
        prompts: texts to continue; an empty prompt is the start of a document, field markers (``xxfld 1 …``) keep their
            meaning.
        next_words: number of the most probable next words to list for each prompt.
        options: see :class:`GenerationOptions`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...] = Field(default=("",), min_length=1)
    next_words: int = Field(default=10, ge=1)
    options: GenerationOptions = GenerationOptions()


def write_samples(bundle: "ModelBundle", samples: SampleOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generate texts and next words for each prompt: a column ``prompt``, then those of generate and next_words."""
    model, vocabulary, tokens = load_generator(bundle)
    texts, words = [], []
    for prompt in samples.prompts:
        ids = prompt_ids(prompt, vocabulary, tokens)
        column = pl.lit(prompt).alias("prompt")
        texts.append(generate(model, vocabulary, ids, samples.options).select(column, pl.all()))
        words.append(next_words(model, vocabulary, ids, samples.next_words).select(column, pl.all()))
    return pl.concat(texts), pl.concat(words)
