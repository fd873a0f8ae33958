"""The vocabulary: which tokens have an id, in which order, and the way between documents of codes and of ids."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from embedline.errors import DataError
from embedline.pipelines.text.detokenize import readable
from embedline.pipelines.text.preprocessing import RULES, RuleName
from embedline.pipelines.text.splits import PARTS, TEST, TRAIN, UNLABELLED, SplitOptions, assign_splits
from embedline.pipelines.text.tokenizer import flat_lists, list_column


class VocabularyOptions(BaseModel):
    """Which tokens come in: those that occur ``min_freq`` times, at most ``max_size`` with the special tokens.

    None is the preset's own (``dl1``: 10 and no limit, ``ulmfit``: 3 and 60,000). ``include_test`` counts the text of
    the test part too: fair for a language model, to be said wherever its figures are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_freq: int | None = Field(default=None, ge=1)
    max_size: int | None = Field(default=None, ge=1)
    include_test: bool = False


class Vocabulary(BaseModel):
    """Tokens in the order of their ids: the special tokens of ``rules``, then by frequency, ties by string.

    DIFF(fastai): no ``xxfake`` tokens fill it up to a multiple of eight; a network that wants one pads its own table.

    Attributes:
        tokens: ``tokens[k]`` has the id ``k``.
        specials: the first tokens.
        unknown, padding: ids of the token for a word outside the vocabulary and for no word.
        rules: the preset of the token rules that it was made under.
        fitted_on: the parts of the documents whose tokens were counted.
        min_freq, max_size: the limits in force; ``max_size`` None is no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: RuleName
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
        if (self.tokens[self.unknown : self.unknown + 1], self.tokens[self.padding : self.padding + 1]) != (
            (rules.unknown,),
            (rules.padding,),
        ):
            raise ValueError(
                f"unknown {self.unknown} and padding {self.padding} are not the ids of {rules.unknown!r} "
                f"and {rules.padding!r}"
            )
        if len(self._index) != len(self.tokens):
            seen: set[str] = set()
            twice = next(token for token in self.tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
            raise ValueError(f"it holds the token {twice!r} twice")
        return self

    @cached_property
    def _index(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._index

    def ids(self, tokens: Iterable[str]) -> NDArray[np.int64]:
        """Ids of tokens [T], that of the unknown token for those it does not have."""
        return np.array([self._index.get(token, self.unknown) for token in tokens], np.int64)

    def words(self, ids: Iterable[int]) -> list[str]:
        """Tokens of ids.

        Raises:
            DataError: if an id is not one of this vocabulary.
        """
        found = [int(number) for number in ids]
        wrong = next((number for number in found if not 0 <= number < len(self.tokens)), None)
        if wrong is not None:
            raise DataError(
                f"id {wrong} is not in a vocabulary of {len(self.tokens)} tokens: it belongs to another model"
            )
        return [self.tokens[number] for number in found]

    def detokenize(self, ids: Iterable[int]) -> str:
        """Readable text of ids: capitals and repetitions back in place, no spaces before punctuation."""
        return readable(self.words(ids))


def load_vocabulary(document: str | dict[str, Any], rules: RuleName | None = None) -> Vocabulary:
    """A vocabulary from its JSON, or from the object that the JSON holds.

    Args:
        rules: the preset that the tokens at hand were made under, if that is to be checked.

    Raises:
        DataError: if it is no vocabulary, holds a token twice, lacks a special token, or was made under other rules.
    """
    try:
        content = json.loads(document) if isinstance(document, str) else document
        vocabulary = Vocabulary.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"the vocabulary cannot be used: {f'{place}: ' if place else ''}{message}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"the vocabulary cannot be used: it is no JSON ({error})") from error
    if rules is not None:
        require_rules(vocabulary, rules)
    return vocabulary


def require_rules(vocabulary: Vocabulary, rules: RuleName) -> None:
    """Raise a DataError if the vocabulary was made under other token rules than these."""
    if vocabulary.rules != rules:
        raise DataError(
            f"the vocabulary was made under the token rules {vocabulary.rules!r}, the tokens under {rules!r}"
        )


def fit_vocabulary(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, split: SplitOptions, rules: RuleName, options: VocabularyOptions
) -> Vocabulary:
    """The vocabulary of the training documents, without those that validate, and of the unlabelled ones.

    Args:
        tokens: ``document_id, label, part, tokens: List(Int32)``, rows of the lexicon.
        lexicon: ``token: String``.
        split: which training documents validate.

    Raises:
        DataError: if the tokens were made under other rules, or ``max_size`` leaves no room for a word.
    """
    preset = RULES[rules]
    _require_lexicon(lexicon, rules)
    min_freq = options.min_freq or preset.min_freq
    max_size = options.max_size or preset.max_size
    if max_size is not None and max_size <= len(preset.specials):
        raise DataError(f"vocabulary.max_size {max_size} leaves no room beside {len(preset.specials)} special tokens")
    counted = (TRAIN, UNLABELLED, *([TEST] if options.include_test else []))
    parts = assign_splits(tokens, split)
    frequencies = _frequencies(tokens.filter(parts.is_in(counted)), len(lexicon))
    words = lexicon["token"].to_list()
    specials = set(preset.specials)
    chosen = [code for code in np.flatnonzero(frequencies >= min_freq).tolist() if words[code] not in specials]
    chosen.sort(key=lambda code: (-frequencies[code], words[code]))
    room = None if max_size is None else max_size - len(preset.specials)
    return Vocabulary(
        rules=rules,
        tokens=(*preset.specials, *(words[code] for code in chosen[:room])),
        specials=preset.specials,
        unknown=preset.specials.index(preset.unknown),
        padding=preset.specials.index(preset.padding),
        fitted_on=tuple(part for part in counted if (parts == part).any()),
        min_freq=min_freq,
        max_size=max_size,
    )


def numericalize(
    tokens: pl.DataFrame, lexicon: pl.DataFrame, vocabulary: Vocabulary, split: SplitOptions
) -> pl.DataFrame:
    """Documents as ids, with the part that each plays.

    Returns:
        ``document_id, label, part (train / validation / test / unlabelled), ids``: lists of UInt16 where the
        vocabulary fits into 65,536, else of Int32; rows in the order of ``tokens``.

    Raises:
        DataError: if the vocabulary was made under other token rules.
    """
    _require_lexicon(lexicon, vocabulary.rules)
    ids = vocabulary.ids(lexicon["token"].to_list()).astype(np.uint16 if len(vocabulary) <= 2**16 else np.int32)
    codes, offsets = flat_lists(tokens["tokens"])
    found = list_column("ids", _taken(ids, codes), offsets)
    return tokens.select("document_id", "label").with_columns(assign_splits(tokens, split), found)


def unknown_shares(ids: pl.DataFrame, vocabulary: Vocabulary) -> dict[str, float]:
    """Share of unknown tokens in each part that has any token, in the order of the parts."""
    found = {}
    for part in PARTS:
        values, _ = flat_lists(ids.filter(pl.col("split") == part)["ids"])
        if len(values):
            found[part] = float(np.count_nonzero(values == vocabulary.unknown) / len(values))
    return found


def _frequencies(tokens: pl.DataFrame, size: int) -> NDArray[np.int64]:
    """How often each row of the lexicon occurs, int64 [size]."""
    codes, _ = flat_lists(tokens["tokens"])
    counts = np.zeros(size, np.int64)
    for start in range(0, len(codes), _PIECE):
        counts += np.bincount(codes[start : start + _PIECE], minlength=size)
    return counts


_PIECE = 10_000_000  # codes at a time: NumPy makes 64-bit copies of them


def _taken(table: NDArray[np.generic], codes: NDArray[np.generic]) -> NDArray[np.generic]:
    taken = np.empty(len(codes), table.dtype)
    for start in range(0, len(codes), _PIECE):
        taken[start : start + _PIECE] = table[codes[start : start + _PIECE]]
    return taken


def _require_lexicon(lexicon: pl.DataFrame, rules: RuleName) -> None:
    """Every document of a preset has its marks around it: a lexicon without them was made under other rules."""
    around: Sequence[str] = (*RULES[rules].before, *RULES[rules].after)
    missing = [token for token in around if token not in set(lexicon["token"].to_list())]
    if missing:
        raise DataError(f"the lexicon has no {missing[0]!r}: the tokens were not made under the token rules {rules!r}")
