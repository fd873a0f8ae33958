"""Text from a language model: a prompt in, continuations or the next words out, as frames.

PyTorch is imported inside the functions, so that nodes can import the settings quickly.
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

    from embedline.pipelines.text.decoding import Continuation, LanguageModel
    from embedline.pipelines.text.tokenizer import TokenOptions
    from embedline.training.model_file import ModelBundle

T = TypeVar("T")
logger = logging.getLogger(__name__)

ENDS = (BEGIN, END, DL1_END)  # tokens after which another document begins
SHOWN_WORDS = 10  # of the unknown words in a warning


class Words(Protocol):
    """What generation asks of :class:`.vocabulary.Vocabulary`."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens in the order of their ids."""
        ...

    @property
    def specials(self) -> tuple[str, ...]:
        """Tokens that stand for no word."""
        ...

    @property
    def unknown(self) -> int:
        """Id of the token that stands for every unknown word."""
        ...

    @property
    def padding(self) -> int:
        """Id of the token that fills up short rows."""
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
    """How to go on from a prompt.

    Attributes:
        n_tokens: tokens to add.
        n_samples: continuations to return.
        beams: width of a beam search; None draws at random instead.
        temperature: divides the logits: below 1 safer, above 1 bolder, 0 always the most probable token.
        top_k: draw from so many most probable tokens only.
        min_p: draw from tokens with at least this fraction of the largest probability only (Nguyen et al. 2024).
        seed: of the random draws; the same seed gives the same text.
        length_penalty: exponent of Wu et al. 2016; above 0 it favours longer beams. It matters where beams may end.
        stop: whether a text ends where the model ends the document; else it goes on with the next document.
        never: tokens that are not drawn; the unknown and the padding token if None.
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


def prompt_ids(prompt: str, vocabulary: Words, tokens: "TokenOptions") -> list[int]:
    """Ids that a model starts from: the start of a document, then the prompt by the rules of its training text.

    Special tokens that are written in the prompt are taken as such, so that ``xxfld 1 cs xxfld 2`` asks a model of
    two-field documents for the second field given the first. An empty prompt is the start of a document alone. Words
    that the vocabulary lacks become its unknown token, which a warning says.
    """
    written = _prompt_tokens(prompt, tokens)
    ids = [int(value) for value in vocabulary.ids(written)]
    unknown = vocabulary.tokens[vocabulary.unknown]
    lost = list(dict.fromkeys(t for t, i in zip(written, ids, strict=True) if i == vocabulary.unknown and t != unknown))
    if lost:
        more = f" and {len(lost) - SHOWN_WORDS} more" if len(lost) > SHOWN_WORDS else ""
        logger.warning("Unknown words of the prompt are read as %s: %s%s", unknown, ", ".join(lost[:SHOWN_WORDS]), more)
    return ids


def _prompt_tokens(prompt: str, tokens: "TokenOptions") -> list[str]:
    from embedline.pipelines.text.tokenizer import tokenize_texts

    rules = RULES[tokens.rules]
    written = tokenize_texts([prompt], tokens)[0]
    # The marks that the rules put around a document are not the prompt's: it has no end yet.
    written = written[len(rules.before) : len(written) - len(rules.after)]
    start = [*rules.before, *rules.after][:1]  # dl1 marks the ends only: a document starts where the last one ended
    return written if written[:1] == start else start + written


def generate(
    model: "LanguageModel", vocabulary: Words, prompt: Sequence[int], options: GenerationOptions
) -> pl.DataFrame:
    """Continuations of ``prompt`` (ids of :func:`prompt_ids`), drawn at random or found by beam search.

    Returns:
        Columns ``sample`` (i64 from 1; beams come best first), ``text`` (prompt and continuation), ``tokens`` (i64
        added, an end token included) and ``mean_log_probability`` (f64, natural logarithm for each added token under
        the model's unchanged distribution: minus its exponent is the perplexity).

    Raises:
        DataError: if the vocabulary does not belong to the model.
    """
    from embedline.pipelines.text.decoding import Law, beam_search, sample

    never = _never(model, vocabulary, options)
    ends = [index for index, token in enumerate(vocabulary.tokens) if token in ENDS] if options.stop else []
    if options.beams is None:
        law = Law(options.temperature, options.top_k, options.min_p, never)
        found = sample(
            model,
            prompt,
            law,
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


def _frame(found: Sequence["Continuation"], vocabulary: Words, prompt: Sequence[int], ends: list[int]) -> pl.DataFrame:
    rows = []
    for number, continuation in enumerate(found, start=1):
        ids = list(continuation.ids)
        shown = ids[:-1] if ids[-1] in ends else ids
        text = vocabulary.detokenize([*prompt, *shown])
        rows.append((number, text, len(ids), continuation.log_probability / len(ids)))
    schema = {"sample": pl.Int64, "text": pl.String, "tokens": pl.Int64, "mean_log_probability": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _never(model: "LanguageModel", vocabulary: Words, options: GenerationOptions) -> tuple[int, ...]:
    """Ids that must not be drawn, those among them that the model has and the vocabulary has not."""
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


def _width(model: "LanguageModel", vocabulary: Words) -> int:
    """Number of tokens that the model tells apart; at least those of its vocabulary."""
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


def next_words(model: "LanguageModel", vocabulary: Words, prompt: Sequence[int], k: int = 10) -> pl.DataFrame:
    """The ``k`` most probable tokens after ``prompt``, special tokens among them, as the lessons show them.

    Returns:
        Columns ``rank`` (i64 from 1), ``word`` (the token as the vocabulary has it) and ``probability`` (f64).
    """
    from embedline.pipelines.text.decoding import read

    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    _width(model, vocabulary)
    log_p, _ = read(model, prompt)
    best = log_p[0, : len(vocabulary)].topk(min(k, len(vocabulary)))
    words = vocabulary.words(best.indices.tolist())
    return pl.DataFrame(
        {"rank": range(1, len(words) + 1), "word": words, "probability": best.values.exp().tolist()},
        schema={"rank": pl.Int64, "word": pl.String, "probability": pl.Float64},
    )


def load(bundle: "ModelBundle") -> tuple["LanguageModel", Words, "TokenOptions"]:
    """Model, vocabulary and tokenizer settings of a stored language model, on the GPU where there is one.

    Raises:
        DataError: if the bundle holds another kind of model, or is broken.
    """
    import torch

    from embedline.pipelines.text.language_learner import load_language_model

    model, vocabulary, tokens = opened(bundle, load_language_model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), vocabulary, tokens


def opened(bundle: "ModelBundle", load: Callable[[Any], T]) -> T:
    """What ``load`` reads from a bundle; what it stumbles over in a broken one becomes a DataError."""
    try:
        return load(bundle)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the {bundle.kind} bundle is broken: {type(error).__name__}: {reason}") from error
