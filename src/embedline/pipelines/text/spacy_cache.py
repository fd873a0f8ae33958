"""A cache of spaCy's tokens: spaCy tokenizes a word only the first time that it occurs.

spaCy's tokenizer splits a text at white space and tokenizes the words one by one, except for its last step, which looks
for special cases (``:)``, ``a.m.``) in the whole text. The tokens of a word are therefore cached. The last step matters
only if it changes the tokens of a word; a text with such a word is tokenized by spaCy as a whole. In real reviews nine
words in ten come from the cache, and the tokens equal those of spaCy alone.

The rules of ``ulmfit`` also work word by word, except for repeated words (``no no no``). A second cache maps a word
before the rules to its codes.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain, combinations, islice
from operator import eq
from typing import TYPE_CHECKING, cast

from embedline.pipelines.text import preprocessing as rule
from embedline.pipelines.text.preprocessing import RULES, RuleName

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer

CACHE_LIMIT = 600_000  # words in a cache before it is cleared

_Codes = tuple[int, ...]

# White space other than one space between two words: spaCy makes tokens of it.
_RUNS = re.compile(r"(\s{2,}|[^\S ])")
# The same for a text without two spaces in a row.
_LINES = re.compile(f"([{''.join(c for c in map(chr, range(0x3001)) if c.isspace() and c != ' ')}]\\s*)")
# A word of ASCII letters, perhaps hyphenated, with one or two punctuation marks around it. spaCy's English patterns do
# not split letters; they split hyphens between letters and these marks (a full stop only after a lower-case letter).
# Special cases ("cannot", "vs.") are checked separately; spaCy tokenizes all other words.
_PLAIN = re.compile(
    r"""(["(]?)([A-Za-z]+(?:-[A-Za-z]+)*)('s|(?:[,!?;:")]|(?<=[a-z][a-z])\.|[,!?]"|(?<=[a-z][a-z])\."|\)[,.])?)"""
)


class _SpansWordsError(Exception):
    """A text that spaCy has to tokenize as a whole, since a special case may span several words."""


class _Cache(dict[str, _Codes]):
    """Codes of the words seen so far; ``make`` computes the codes of a new word."""

    def __init__(self, make: Callable[[str], _Codes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, word: str) -> _Codes:
        codes = self._make(word)
        if len(self) >= CACHE_LIMIT:
            self.clear()
        self[word] = codes
        return codes


class CachedTokenizer:
    """Token rules and spaCy's tokenizer of one preset, with caches. A token's code is its index in ``lexicon``.

    Attributes:
        lexicon: all tokens so far, in the order of their first occurrence.
    """

    def __init__(self, rules: RuleName) -> None:
        self._rules = RULES[rules]
        self._ulmfit = rules == "ulmfit"
        self._tokenizer, self._unmatched = _tokenizers(rules)
        self._cases = frozenset(self._tokenizer.rules)
        self._matched_cases = _matched_cases(self._tokenizer)
        self._spanning: set[str] = set()  # words that special cases may span
        self.lexicon: list[str] = []
        self._n_returned = 0  # tokens that `new_tokens` has returned
        self._codes: dict[str, int] = {}
        self._ruled_words = _Cache(self._ruled_word_codes)  # words after the rules
        self._words = _Cache(self._word_codes)  # words before the rules
        self._before = [self._code(token) for token in self._rules.before]
        self._after = [self._code(token) for token in self._rules.after]
        self._repeat = self._code(rule.REPEAT) if self._ulmfit else -1

    def encode(self, text: str) -> list[int]:
        """Codes of a text, with the tokens that the rules put around every document."""
        if not self._ulmfit:
            return [*self._before, *self._ruled_codes(rule.dl1_text(text)), *self._after]
        text = rule.fix_references(text)
        words = text.split()
        try:
            codes = list(chain.from_iterable(map(self._words.__getitem__, _original_words(text, words))))
        except _SpansWordsError:
            return self._whole_codes(rule.ulmfit_tail(rule.mark_repeated_words(rule.mark_repeats(text))))
        # Three equal words in a row begin with two equal words, or contain a run of equal characters.
        if any(map(eq, words, islice(words, 1, None))) or self._repeat in codes:
            single = rule.mark_repeats(text)
            marked = rule.mark_repeated_words(single)
            if marked != single:
                return self._ruled_codes(rule.ulmfit_tail(marked))
        return [*self._before, *codes, *self._after]

    def new_tokens(self) -> list[str]:
        """Tokens that were added to the lexicon since the last call, in the order of their codes."""
        start, self._n_returned = self._n_returned, len(self.lexicon)
        return self.lexicon[start:]

    def encode_uncached(self, text: str) -> list[int]:
        """Codes of a text by the rules and spaCy without caches: slow; :meth:`encode` must return the same codes."""
        if self._ulmfit:
            return self._whole_codes(rule.ulmfit_text(text))
        return [*self._before, *self._whole_codes(rule.dl1_text(text)), *self._after]

    def _ruled_codes(self, text: str) -> list[int]:
        """Codes of a text after the rules, from the cache if possible."""
        try:
            return list(chain.from_iterable(map(self._ruled_words.__getitem__, _split_words(text))))
        except _SpansWordsError:
            return self._whole_codes(text)

    def _whole_codes(self, text: str) -> list[int]:
        return [self._code(token.text) for token in self._tokenizer(text)]

    def _word_codes(self, word: str) -> _Codes:
        """Codes of a word before the rules: apply the rules that work word by word, then look up the cache."""
        if word.isspace():
            return self._ruled_words[word]
        word = rule.lower_words(rule.mark_repeats(word))
        return tuple(chain.from_iterable(map(self._ruled_words.__getitem__, word.split(" "))))

    def _ruled_word_codes(self, word: str) -> _Codes:
        """Codes of a word after the rules: spaCy's tokens."""
        if not word:
            return ()
        if word in self._spanning:
            raise _SpansWordsError
        plain = _PLAIN.fullmatch(word)
        if plain:
            pieces = _split_plain(plain)
            if not self._contain_case(pieces):
                return tuple(map(self._code, pieces))
        tokens = [token.text for token in self._tokenizer(word)]
        if self._matched_cases.search(word) and tokens != [token.text for token in self._unmatched(word)]:
            self._spanning.add(word)
            raise _SpansWordsError
        return tuple(map(self._code, tokens))

    def _contain_case(self, pieces: list[str]) -> bool:
        """Whether consecutive pieces form a special case, as the last two of ``ex-Mrs.`` do."""
        spans = combinations(range(len(pieces) + 1), 2)
        return any("".join(pieces[start:end]) in self._cases for start, end in spans)

    def _code(self, token: str) -> int:
        # torchtext lowers after spaCy; fastai lowers before it, and replaces spaces inside a token.
        token = token.replace(" ", "▁") if self._ulmfit else token.lower()
        code = self._codes.setdefault(token, len(self.lexicon))
        if code == len(self.lexicon):
            self.lexicon.append(token)
        return code


def _split_plain(plain: re.Match[str]) -> list[str]:
    """Tokens of a word that ``_PLAIN`` matches."""
    front, stem, marks = plain.groups()
    pieces = re.split("(-)", stem) if "-" in stem else [stem]
    return [*front, *pieces, *([marks] if marks == "'s" else marks)]


def _split_words(text: str) -> Iterator[str]:
    """Split a text at white space as spaCy does; some of the strings may be empty.

    A single space after a word is dropped. More white space is a string of its own, without the space right after the
    word; white space at the start of the text is kept whole.
    """
    lead = len(text) - len(text.lstrip())
    if lead:
        yield text[:lead]
    segments = _RUNS.split(text[lead:])  # words and white space alternate
    for number, segment in enumerate(segments):
        if number % 2:
            yield segment.removeprefix(" ")
        else:
            yield from segment.split(" ")


def _original_words(text: str, words: list[str]) -> list[str]:
    """The words of a text before the rules, and between them the white-space tokens that the rules keep."""
    segments = _LINES.split(rule.squeeze_spaces(text).strip())
    if len(segments) == 1:
        return words
    found = segments[0].split(" ")
    for space, segment in zip(segments[1::2], segments[2::2], strict=True):
        # The rules put a space before some characters: after white space it belongs to the token of the white space.
        found.append(f"{space} " if _spaced(segment[:3]) and not space.endswith(" ") else space)
        found += segment.split(" ")
    return found


def _spaced(start: str) -> bool:
    """Whether the rules put a space before a word that starts with these three characters."""
    return start[0] in "/#\\" or (len(start) == 3 and start[0] == start[1] == start[2])


def _tokenizers(rules: RuleName) -> "tuple[Tokenizer, Tokenizer]":
    """spaCy's English tokenizer with the preset's special tokens, and the same without its last step."""
    import spacy
    from spacy.symbols import ORTH
    from spacy.tokenizer import Tokenizer

    tokenizer = cast("Tokenizer", spacy.blank("en").tokenizer)
    for special in RULES[rules].specials:
        tokenizer.add_special_case(special, [{ORTH: special}])
    # A special case joins the last step only if it has an affix when it is added: here the searches find none.
    ready = False
    unmatched = Tokenizer(
        tokenizer.vocab,
        rules=tokenizer.rules,
        prefix_search=lambda text: tokenizer.prefix_search(text) if ready else None,
        suffix_search=lambda text: tokenizer.suffix_search(text) if ready else None,
        infix_finditer=lambda text: tokenizer.infix_finditer(text) if ready else iter(()),
        token_match=tokenizer.token_match,
        url_match=tokenizer.url_match,
    )
    ready = True
    return tokenizer, unmatched


def _matched_cases(tokenizer: "Tokenizer") -> re.Pattern[str]:
    """Pattern of the special cases by which spaCy's last step may change the tokens of a word."""
    affixes = (tokenizer.find_prefix, tokenizer.find_suffix, tokenizer.find_infix)
    found = [case for case in tokenizer.rules if not case.isspace() and any(find(case) for find in affixes)]
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))
