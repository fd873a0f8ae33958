"""Tokenize documents in parallel processes: rules, then spaCy. Tokens are integer codes, not strings.

A token's code is its row in the lexicon, which lists all distinct tokens, most frequent first, ties by string. Codes
therefore depend only on the corpus, not on the number or the speed of the processes. The tokens of all documents are
one flat array with offsets, and become a list column without one Python object for each token.
"""

import multiprocessing
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from itertools import chain, combinations
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator

from embedline.errors import DataError
from embedline.pipelines.text.preprocessing import RULES, RuleName, dl1_text, lower_unicode_capitals, ulmfit_text
from embedline.training.options import Options
from embedline.training.processes import granted_cores, map_in_processes
from embedline.training.progress import Progress

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer

IN_PROCESS = 4_000_000  # characters that one process tokenizes in the time that a pool takes to start
BATCH = 400_000  # characters of a batch, the unit of work of a process
_MAX_PROCESSES = 61  # limit of Windows
CACHE_LIMIT = 600_000  # words whose tokens are kept
# Strings that spaCy holds before the tokenizer for a few texts is replaced: the memory of a server must not grow.
MAX_STRINGS = 1_000_000

ENGLISH = "en"
# Languages whose tokenizer is another package: its name, and that of its module.
SEGMENTERS = {
    "ja": ("sudachipy", "sudachipy"),
    "ko": ("natto-py", "natto"),
    "th": ("pythainlp", "pythainlp"),
    "vi": ("pyvi", "pyvi"),
}

_tokenizing = threading.Lock()  # one thread at a time may use a tokenizer of `_tokenizer`

# A word of ASCII letters, perhaps hyphenated, with one or two punctuation marks around it. spaCy's English patterns do
# not split letters; they split hyphens between letters and these marks (a full stop only after a lower-case letter).
# Special cases ("cannot", "vs.") are checked separately; spaCy tokenizes all other words.
_PLAIN = re.compile(
    r"""(["(]?)([A-Za-z]+(?:-[A-Za-z]+)*)('s|(?:[,!?;:")]|(?<=[a-z][a-z])\.|[,!?]"|(?<=[a-z][a-z])\."|\)[,.])?)"""
)
_WHITE_SPACE = re.compile(r"(\s{2,}|[^\S ])")  # other than one space between two words: spaCy makes tokens of it

Flat = tuple[NDArray[np.int32], NDArray[np.int64]]


class TokenOptions(Options):
    """Settings of the tokenizer.

    Attributes:
        language: code of spaCy's tokenizer, such as ``de``, ``zh`` (each character is a token) or ``xx`` (several
            languages); English has its own cache, and is more than twice as fast as others.
        workers: number of processes; None: one for each core.
    """

    rules: RuleName = "ulmfit"
    language: str = ENGLISH
    workers: int | None = Field(default=None, ge=1)

    @field_validator("language")
    @classmethod
    def _check_language(cls, language: str) -> str:
        if language == ENGLISH:  # a machine that only trains needs no spaCy
            return language
        if language not in (known := language_codes()):
            raise ValueError(f"language {language!r} is none of spaCy's languages: {', '.join(known)}")
        package, module = SEGMENTERS.get(language, ("", ""))
        if module and find_spec(module) is None:
            raise ValueError(f"language {language!r} needs the package {package}, which is not installed")
        return language

    @property
    def processes(self) -> int:
        """Number of processes: ``workers``, or the number of cores that this process may use."""
        return min(self.workers or granted_cores(), _MAX_PROCESSES)


@cache
def language_codes() -> tuple[str, ...]:
    """Codes of the languages that spaCy has a tokenizer for, without the seconds that an import of spaCy takes."""
    spacy = find_spec("spacy")
    assert spacy is not None and spacy.submodule_search_locations is not None
    folders = [f"{folder}/lang" for folder in spacy.submodule_search_locations]
    return tuple(sorted(module.name for module in iter_modules(folders) if module.ispkg))


def tokenize_documents(documents: pl.DataFrame, options: TokenOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tokenize documents ``document_id``, ``text``, ``label`` and ``split``.

    Returns ``document_id, label, split, tokens: List(Int32)`` in the same order, and the lexicon ``token: String``. A
    text that spaCy cannot tokenize is a DataError with the document's id.
    """
    texts, names = documents["text"].to_list(), documents["document_id"].to_list()
    (codes, offsets), lexicon = tokenize(texts, options, names)
    tokens = documents.select("document_id", "label", "split").with_columns(list_column("tokens", codes, offsets))
    return tokens, pl.DataFrame({"token": lexicon}, schema={"token": pl.String})


def tokenize(texts: Sequence[str], options: TokenOptions, names: Sequence[str] | None = None) -> tuple[Flat, list[str]]:
    """Tokenize texts, which have ``names`` (None: their numbers) in messages.

    Returns ``(codes int32 [T], offsets int64 [N + 1])``, text ``i`` is ``codes[offsets[i]:offsets[i + 1]]``, and the
    lexicon.
    """
    from tqdm import tqdm

    names = [str(number) for number in range(len(texts))] if names is None else names
    batches = _batches(texts, names)
    # A daemonic process must not start children.
    if multiprocessing.current_process().daemon or options.processes == 1 or sum(map(len, texts)) <= IN_PROCESS:
        tokenizer = CachedTokenizer(options.rules, options.language)
        results = (_tokenize_batch(tokenizer, batch) for batch in batches)
    else:
        work = partial(_tokenize_in_process, options)
        results = map_in_processes(work, batches, options.processes, "tokenizer")
    place: dict[str, int] = {}  # each token, in the order of the first occurrence
    codes, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    done, progress = 0, Progress("tokenizing", len(texts), "document")
    with tqdm(total=len(texts), desc="tokens", unit="document", leave=False, disable=None) as bar, closing(results):
        for batch_codes, batch_lengths, words in results:
            places = np.fromiter((place.setdefault(word, len(place)) for word in words), np.int32, len(words))
            codes.append(places[batch_codes])
            lengths.append(batch_lengths)
            bar.update(len(batch_lengths))
            done += len(batch_lengths)
            progress.update(done)
    offsets = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
    flat, tokens = np.concatenate(codes), list(place)
    counts = np.bincount(flat, minlength=len(tokens))
    order = sorted(range(len(tokens)), key=lambda code: (-counts[code], tokens[code]))
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return (np.take(rank, flat, out=flat, mode="clip"), offsets), [tokens[code] for code in order]


def tokenize_texts(texts: Sequence[str], options: TokenOptions) -> list[list[str]]:
    """Tokenize a few texts into strings, in this process: for prediction. The first call loads spaCy."""
    with _tokenizing:
        tokenizer = _tokenizer(options.rules, options.language)
        found = [_tokens(tokenizer, text, str(number)) for number, text in enumerate(texts)]
        if len(tokenizer.strings) > MAX_STRINGS:
            _tokenizer.cache_clear()
    return found


def list_column(name: str, values: NDArray[np.generic], offsets: NDArray[np.int64]) -> pl.Series:
    """Build a list column from arrays: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""
    import pyarrow as pa

    return pl.Series(name, pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))


def flat_lists(column: pl.Series) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Inverse of :func:`list_column`: the concatenated values of a list column, and the N + 1 offsets of its rows."""
    if column.null_count():
        raise DataError(f"column {column.name!r} has no list (null) in {column.null_count()} rows")
    found = column.rechunk().to_arrow()
    offsets = found.offsets.to_numpy()
    return found.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]], offsets - offsets[0]


_Batch = tuple[Sequence[str], Iterable[str]]  # texts, names
_Result = tuple[NDArray[np.int32], NDArray[np.int64], list[str]]  # codes in the batch's own words, lengths, words


def _batches(texts: Sequence[str], names: Sequence[str]) -> Iterator[_Batch]:
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text) + 1
        if size >= BATCH or number + 1 == len(texts):
            yield list(texts[start : number + 1]), list(names[start : number + 1])
            start, size = number + 1, 0


class CachedTokenizer:
    """Token rules of one preset and spaCy's tokenizer; of English, spaCy reads a word only when it is new.

    spaCy's tokenizer splits a text at white space and tokenizes the words one by one, except for its last step, which
    takes most of the time and looks for special cases (``:)``, ``a.m.``) in the whole text. The tokens of a word are
    therefore cached. A text with a word whose tokens the last step changes is tokenized as a whole. In real reviews the
    tokens equal those of spaCy alone, in less than half of the time. Other languages have no cache: the rules above are
    those of English, and the special cases of other languages may contain white space.
    """

    def __init__(self, rules: RuleName, language: str = ENGLISH) -> None:
        import spacy

        self._rules = rules
        try:
            blank: Any = spacy.blank(language)
        except ImportError as error:  # of a segmenter, or of its dictionary
            raise DataError(f"tokens.language {language!r} cannot be used: {error}") from error
        self._tokenizer = blank.tokenizer
        self.strings = blank.vocab.strings  # all that spaCy has seen: it never forgets
        blank.vocab.lex_attr_getters = {}  # no shapes and flags of new words: only the strings count
        capitals = lower_unicode_capitals if blank.vocab.writing_system["has_case"] else str.lower
        ulmfit = partial(ulmfit_text, capitals=None if language == ENGLISH else capitals)
        self._prepare: Callable[[str], str] = ulmfit if rules == "ulmfit" else dl1_text
        self._is_cached = language == ENGLISH
        specials = "|".join(map(re.escape, RULES[rules].specials))
        # Special tokens, and the number behind a repetition, of a tokenizer without special cases.
        self._specials = re.compile(rf"(?<!\S)((?:{specials})(?: \d+)?)(?!\S)")
        self._has_cases = hasattr(self._tokenizer, "add_special_case")
        if self._has_cases:
            _add_specials(self._tokenizer, rules)
        if self._is_cached:
            self._start_cache()

    def _start_cache(self) -> None:
        self._unmatched = _unmatched_tokenizer(self._tokenizer)
        affixes = (self._tokenizer.find_prefix, self._tokenizer.find_suffix, self._tokenizer.find_infix)
        cases = [case for case in self._tokenizer.rules if not case.isspace() and any(find(case) for find in affixes)]
        # The special cases of the last step.
        self._cases = re.compile("|".join(map(re.escape, sorted(cases, key=len, reverse=True))))
        self.word_tokens = lru_cache(CACHE_LIMIT)(self._word_tokens)

    def tokens(self, text: str) -> list[str]:
        """Tokens of a text, with those that the rules put around every document."""
        text = self._prepare(text)
        if not self._is_cached:
            return self._whole_tokens(text)
        words = list(map(self.word_tokens, _split_words(text)))
        if None in words:
            return self._whole_tokens(text)
        return [*chain.from_iterable(words), *RULES[self._rules].after]  # type: ignore[arg-type]

    def uncached_tokens(self, text: str) -> list[str]:
        """Tokens of a text by spaCy alone: slow; :meth:`tokens` must return the same."""
        return self._whole_tokens(self._prepare(text))

    def _whole_tokens(self, text: str) -> list[str]:
        return [*map(self._ruled, self._spacy_tokens(text)), *RULES[self._rules].after]

    def _spacy_tokens(self, text: str) -> list[str]:
        """spaCy's tokens of a whole text; special tokens stay whole where each character is a token, too."""
        if self._has_cases:
            return [token.text for token in self._tokenizer(text)]
        tokens: list[str] = []
        for number, piece in enumerate(self._specials.split(text)):  # text and special tokens alternate
            tokens += piece.split() if number % 2 else (token.text for token in self._tokenizer(piece.strip(" ")))
        return tokens

    def _word_tokens(self, word: str) -> tuple[str, ...] | None:
        """Tokens of a word after the rules; None if they depend on the words around it."""
        if plain := _PLAIN.fullmatch(word):
            front, stem, end = plain.groups()
            pieces = [*front, *re.split("(-)", stem), *([end] if end == "'s" else end)]
            spans = combinations(range(len(pieces) + 1), 2)
            # Consecutive pieces may form a special case, as the last two of "ex-Mrs." do.
            if not any("".join(pieces[start:stop]) in self._tokenizer.rules for start, stop in spans):
                return tuple(map(self._ruled, pieces))
        tokens = [token.text for token in self._unmatched(word)]
        if self._cases.search(word) and tokens != [token.text for token in self._tokenizer(word)]:
            return None
        return tuple(map(self._ruled, tokens))

    def _ruled(self, token: str) -> str:
        # torchtext lowers after spaCy; fastai lowers before it, and replaces spaces inside a token.
        return token.lower() if self._rules == "dl1" else token.replace(" ", "▁")


def _split_words(text: str) -> list[str]:
    """Split a text at white space as spaCy does; some of the strings may be empty.

    A single space after a word is dropped. More white space is a string of its own, without the space right after the
    word; white space at the start of the text is kept whole.
    """
    lead = len(text) - len(text.lstrip())
    words = [text[:lead]]
    for number, segment in enumerate(_WHITE_SPACE.split(text[lead:])):  # words and white space alternate
        words += [segment.removeprefix(" ")] if number % 2 else segment.split(" ")
    return words


def _add_specials(tokenizer: "Tokenizer", rules: RuleName) -> None:
    """Keep the preset's special tokens whole."""
    from spacy.symbols import ORTH

    for special in RULES[rules].specials:
        tokenizer.add_special_case(special, [{ORTH: special}])


def _unmatched_tokenizer(full: "Tokenizer") -> "Tokenizer":
    """The tokenizer without its last step."""
    from spacy.tokenizer import Tokenizer

    # A special case joins the last step only if it has an affix when it is added: here the searches find none.
    ready = False
    unmatched = Tokenizer(
        full.vocab,
        rules=full.rules,
        prefix_search=lambda text: full.prefix_search(text) if ready else None,
        suffix_search=lambda text: full.suffix_search(text) if ready else None,
        infix_finditer=lambda text: full.infix_finditer(text) if ready else iter(()),
        token_match=full.token_match,
        url_match=full.url_match,
    )
    ready = True
    return unmatched


_tokenizer = lru_cache(maxsize=2)(CachedTokenizer)  # of a process


def _tokens(tokenizer: CachedTokenizer, text: str, name: str) -> list[str]:
    try:
        return tokenizer.tokens(text)
    except (ValueError, TypeError, MemoryError) as error:
        raise DataError(f"document {name!r} cannot be tokenized: {error}") from error


def _tokenize_batch(tokenizer: CachedTokenizer, batch: _Batch) -> _Result:
    place: defaultdict[str, int] = defaultdict()
    place.default_factory = place.__len__
    codes = [np.empty(0, np.int32)]
    for text, name in zip(*batch, strict=True):
        tokens = _tokens(tokenizer, text, name)
        codes.append(np.fromiter(map(place.__getitem__, tokens), np.int32, len(tokens)))
    lengths = np.array([len(each) for each in codes[1:]], np.int64)
    return np.concatenate(codes), lengths, list(place)


def _tokenize_in_process(options: TokenOptions, batch: _Batch) -> _Result:
    return _tokenize_batch(_tokenizer(options.rules, options.language), batch)
