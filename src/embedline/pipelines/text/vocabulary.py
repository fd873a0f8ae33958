"""The vocabulary: the tokens that have an id, their order, and the conversion of token codes to ids."""

import logging
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from embedline.errors import DataError
from embedline.pipelines.text.documents import SPLITS, TEST, TRAIN, UNLABELLED, SplitOptions, assign_splits
from embedline.pipelines.text.preprocessing import RULES, RuleName, detokenize
from embedline.pipelines.text.tokenizer import ENGLISH, TokenOptions, flat_lists, list_column
from embedline.training.options import Options

logger = logging.getLogger(__name__)

MANY = 0.1  # fraction of unknown tokens above which a split gets a warning
USELESS = 0.9  # fraction of unknown tokens above which nothing can be learned


class VocabularyOptions(Options):
    """Tokens of the vocabulary: those with at least ``min_freq`` occurrences, at most ``max_size`` with the specials.

    None takes the default of the preset (``dl1``: 10 and no limit, ``ulmfit``: 3 and 60,000). ``include_test`` also
    counts the texts of the test split, never their labels: this is fair for a language model, but its metrics must
    state it.
    """

    min_freq: int | None = Field(default=None, ge=1)
    max_size: int | None = Field(default=None, ge=1)
    include_test: bool = False


class Vocabulary(Options):
    """Tokens in the order of their ids: the special tokens of ``rules``, then by frequency, ties by string.

    DIFF(fastai): no ``xxfake`` tokens pad the size to a multiple of eight; a network may pad its own table.

    Attributes:
        tokens: ``tokens[k]`` has the id ``k``.
        specials: the first tokens.
        unknown, padding: ids of the tokens for words outside the vocabulary and for padding.
        rules: preset of the token rules of the documents.
        language: code of the language of their tokenizer.
        fitted_on: the splits whose tokens were counted.
        min_freq, max_size: the limits that were used; ``max_size`` None means no limit.
    """

    rules: RuleName
    language: str = ENGLISH
    tokens: tuple[str, ...]
    specials: tuple[str, ...]
    unknown: int
    padding: int
    fitted_on: tuple[str, ...]
    min_freq: int
    max_size: int | None = None

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        rules = RULES[self.rules]
        if self.specials != rules.specials or self.tokens[: len(rules.specials)] != rules.specials:
            raise ValueError(f"it does not start with the special tokens of {self.rules!r}: {' '.join(rules.specials)}")
        if len(self._index) != len(self.tokens):
            twice = next(token for number, token in enumerate(self.tokens) if self._index[token] != number)
            raise ValueError(f"it holds the token {twice!r} twice")
        if self._index[rules.unknown] != self.unknown or self._index[rules.padding] != self.padding:
            raise ValueError(
                f"unknown {self.unknown} and padding {self.padding} are not the ids of {rules.unknown!r} "
                f"and {rules.padding!r}"
            )
        return self

    @cached_property
    def _index(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._index

    def ids(self, tokens: Iterable[str]) -> NDArray[np.int64]:
        """Ids int64 [T] of tokens; tokens outside the vocabulary get the id of the unknown token."""
        return np.array([self._index.get(token, self.unknown) for token in tokens], np.int64)

    def words(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ids; one outside the vocabulary is a DataError."""
        found = [int(number) for number in ids]
        if wrong := [number for number in found if not 0 <= number < len(self)]:
            raise DataError(f"id {wrong[0]} is not in a vocabulary of {len(self)} tokens: it belongs to another model")
        return [self.tokens[number] for number in found]

    def detokenize(self, ids: Iterable[int]) -> str:
        """Readable text of ids: capitals and repetitions back in place, no spaces before punctuation."""
        return detokenize(self.words(ids))


def load_vocabulary(document: dict[str, Any], tokens: TokenOptions | None = None) -> Vocabulary:
    """Load a vocabulary from its JSON values; ``tokens`` are the settings of the documents' tokenizer.

    What is no vocabulary, a token that repeats, a missing special token, and other rules or languages are a DataError.
    """
    try:
        vocabulary = Vocabulary.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise DataError(f"the vocabulary cannot be used: {f'{place}: ' if place else ''}{message}") from error
    for what, name in (("token rules", "rules"), ("language", "language")) if tokens else ():
        ours, theirs = getattr(vocabulary, name), getattr(tokens, name)
        if ours != theirs:
            raise DataError(f"the vocabulary was made with the {what} {ours!r}, the tokens with {theirs!r}")
    return vocabulary


def fit_vocabulary(
    tokens: pl.DataFrame,
    lexicon: pl.DataFrame,
    split: SplitOptions,
    rules: RuleName,
    options: VocabularyOptions,
    language: str = ENGLISH,
) -> Vocabulary:
    """Fit the vocabulary on the documents of the splits train and unlabelled; validation documents are not counted.

    ``tokens`` are ``document_id, label, split, tokens: List(Int32)``, rows of the ``lexicon``, ``token: String``.

    Raises:
        DataError: the tokens were made with other rules, ``max_size`` leaves no room for a word, or no word occurs
            ``min_freq`` times.
    """
    preset = RULES[rules]
    _require_lexicon(lexicon, rules)
    min_freq = options.min_freq or preset.min_freq
    max_size = options.max_size or preset.max_size
    if max_size is not None and max_size <= len(preset.specials):
        raise DataError(f"vocabulary.max_size {max_size} leaves no room beside {len(preset.specials)} special tokens")
    counted = (TRAIN, UNLABELLED, *([TEST] if options.include_test else []))
    splits = assign_splits(tokens, split)
    found = tokens.filter(splits.is_in(counted))["tokens"].explode().drop_nulls().value_counts()
    frequencies = np.zeros(len(lexicon), np.int64)
    frequencies[found["tokens"].to_numpy()] = found["count"].to_numpy()
    words = lexicon["token"].to_list()
    specials = set(preset.specials)
    chosen = [code for code in np.flatnonzero(frequencies >= min_freq).tolist() if words[code] not in specials]
    chosen.sort(key=lambda code: (-frequencies[code], words[code]))
    room = None if max_size is None else max_size - len(preset.specials)
    if not chosen:
        most = max((int(frequencies[code]) for code, word in enumerate(words) if word not in specials), default=0)
        raise DataError(
            f"no word occurs vocabulary.min_freq = {min_freq} times in the documents that the vocabulary is fitted on "
            f"(the most frequent one {most} times): lower vocabulary.min_freq, or give more documents"
        )
    return Vocabulary(
        rules=rules,
        language=language,
        tokens=(*preset.specials, *(words[code] for code in chosen[:room])),
        specials=preset.specials,
        unknown=preset.specials.index(preset.unknown),
        padding=preset.specials.index(preset.padding),
        fitted_on=tuple(name for name in counted if (splits == name).any()),
        min_freq=min_freq,
        max_size=max_size,
    )


def numericalize(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, vocabulary: Vocabulary, split: SplitOptions
) -> pl.DataFrame:
    """Convert the tokens of documents to ids, and assign the splits.

    A warning names the splits with more than 10 % of unknown tokens. Other token rules, and more than 90 % of unknown
    tokens in the split ``train``, from which nothing can be learned, are a DataError.

    Returns:
        ``document_id, label, split (train / validation / test / unlabelled), ids``: lists of UInt16 if the
        vocabulary has at most 65,536 tokens, else of Int32; rows in the order of ``tokens``.
    """
    _require_lexicon(lexicon, vocabulary.rules)
    ids = vocabulary.ids(lexicon["token"].to_list()).astype(np.uint16 if len(vocabulary) <= 2**16 else np.int32)
    codes, offsets = flat_lists(tokens["tokens"])
    found = list_column("ids", pl.Series(ids).gather(codes).to_numpy(), offsets)
    frame = tokens.select("document_id", "label").with_columns(assign_splits(tokens, split), found)
    unknown = unknown_fractions(frame, vocabulary)
    if unknown.get(TRAIN, 0.0) > USELESS:
        raise DataError(
            f"{unknown[TRAIN]:.0%} of the tokens of the split 'train' are not among the {len(vocabulary)} words of the "
            "vocabulary: lower vocabulary.min_freq, raise vocabulary.max_size, or check tokens.language"
        )
    if many := [f"{fraction:.0%} of the split {name!r}" for name, fraction in unknown.items() if fraction > MANY]:
        message = "Many tokens are not in the vocabulary: %s (see vocabulary.min_freq, vocabulary.max_size)"
        logger.warning(message, ", ".join(many))
    return frame


def unknown_fractions(ids: pl.DataFrame, vocabulary: Vocabulary) -> dict[str, float]:
    """Fraction of unknown tokens in each split that has tokens, in the order of :data:`.splits.SPLITS`."""
    found = {}
    for split in SPLITS:
        values, _ = flat_lists(ids.filter(pl.col("split") == split)["ids"])
        if len(values):
            found[split] = float(np.count_nonzero(values == vocabulary.unknown) / len(values))
    return found


def vocabulary_metrics(ids: pl.DataFrame, vocabulary: Vocabulary) -> dict[str, Any]:
    """Size of a vocabulary, the splits that it was fitted on, and :func:`unknown_fractions`."""
    unknown = unknown_fractions(ids, vocabulary)
    return {"size": len(vocabulary), "fitted_on": list(vocabulary.fitted_on), "unknown": unknown}


def _require_lexicon(lexicon: pl.DataFrame, rules: RuleName) -> None:
    """Raise a DataError if the lexicon lacks the tokens that the rules put around every document."""
    around = (*RULES[rules].before, *RULES[rules].after)
    if missing := sorted({*around} - {*lexicon["token"]}):
        raise DataError(f"the lexicon has no {missing[0]!r}: the tokens were not made with the token rules {rules!r}")
