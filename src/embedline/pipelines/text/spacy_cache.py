"""Token codes of one text after another, asking spaCy only about words that it has not been asked about before.

spaCy's tokenizer cuts a text at white space and treats the chunks one by one, except that its last step looks for
special cases (``:)``, ``a.m.``) over the whole text. So the tokens of a chunk are looked up in a table, and spaCy sees
only the chunks that are missing there. The last step can only matter to a chunk that it changes; a text with such a
chunk goes to spaCy whole. Real reviews: nine words in ten are looked up, and the codes are those of spaCy alone.

The rules of ``ulmfit`` look at one chunk at a time too, but for repeated words (``no no no``); a second table goes from
the chunk as it was written straight to the codes.
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

TABLE_LIMIT = 600_000  # chunks in a table before it starts anew

_Codes = tuple[int, ...]

# Any white space but one space between two words: spaCy makes tokens of it.
_RUNS = re.compile(r"(\s{2,}|[^\S ])")
# The same in a text without two spaces in a row.
_LINES = re.compile(f"([{''.join(c for c in map(chr, range(0x3001)) if c.isspace() and c != ' ')}]\\s*)")
# A word of ASCII letters, perhaps hyphenated, with a mark or two around it. Letters alone are touched by no pattern of
# spaCy's English, hyphens between letters are cut out, and so are these marks: the full stop only behind a small
# letter. Special cases ("cannot", "vs.") are looked for, and what else there is goes to spaCy.
_PLAIN = re.compile(
    r"""(["(]?)([A-Za-z]+(?:-[A-Za-z]+)*)('s|(?:[,!?;:")]|(?<=[a-z][a-z])\.|[,!?]"|(?<=[a-z][a-z])\."|\)[,.])?)"""
)


class _AcrossChunksError(Exception):
    """A text that spaCy has to see whole."""


class _Table(dict[str, _Codes]):
    """Codes of the chunks seen so far; ``make`` finds those of a new one."""

    def __init__(self, make: Callable[[str], _Codes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, chunk: str) -> _Codes:
        codes = self._make(chunk)
        if len(self) >= TABLE_LIMIT:
            self.clear()
        self[chunk] = codes
        return codes


class TextEncoder:
    """Rules and spaCy of one preset, with the tokens met so far: a token's code is its place in ``lexicon``.

    Attributes:
        lexicon: every token met so far, in the order in which they were met.
    """

    def __init__(self, rules: RuleName) -> None:
        self._rules = RULES[rules]
        self._ulmfit = rules == "ulmfit"
        self._tokenizer, self._unmatched = _tokenizers(rules)
        self._cases = frozenset(self._tokenizer.rules)
        self._matched_cases = _matched_cases(self._tokenizer)
        self._across: set[str] = set()
        self.lexicon: list[str] = []
        self._told = 0
        self._codes: dict[str, int] = {}
        self._chunks = _Table(self._chunk_codes)
        self._words = _Table(self._word_codes)
        self._before = [self._code(token) for token in self._rules.before]
        self._after = [self._code(token) for token in self._rules.after]
        self._repeat = self._code(rule.REPEAT) if self._ulmfit else -1

    def encode(self, text: str) -> list[int]:
        """Codes of a text, the tokens around every document included."""
        if not self._ulmfit:
            return [*self._before, *self._ruled_codes(rule.dl1_text(text)), *self._after]
        text = rule.fix_references(text)
        words = text.split()
        try:
            codes = list(chain.from_iterable(map(self._words.__getitem__, _written_chunks(text, words))))
        except _AcrossChunksError:
            return self._whole_codes(rule.ulmfit_tail(rule.mark_repeated_words(rule.mark_repeats(text))))
        # Three equal words in a row start with two equal chunks, or have a run of equal characters among them.
        if any(map(eq, words, islice(words, 1, None))) or self._repeat in codes:
            single = rule.mark_repeats(text)
            marked = rule.mark_repeated_words(single)
            if marked != single:
                return self._ruled_codes(rule.ulmfit_tail(marked))
        return [*self._before, *codes, *self._after]

    def new_tokens(self) -> list[str]:
        """The tokens met since the last call, in the order of their codes."""
        start, self._told = self._told, len(self.lexicon)
        return self.lexicon[start:]

    def encode_plainly(self, text: str) -> list[int]:
        """The same codes by the rules and spaCy alone, on the whole text: slow, what :meth:`encode` must equal."""
        if self._ulmfit:
            return self._whole_codes(rule.ulmfit_text(text))
        return [*self._before, *self._whole_codes(rule.dl1_text(text)), *self._after]

    def _ruled_codes(self, text: str) -> list[int]:
        """Codes of a text that the rules have seen, by the table where that is right."""
        try:
            return list(chain.from_iterable(map(self._chunks.__getitem__, _chunks(text))))
        except _AcrossChunksError:
            return self._whole_codes(text)

    def _whole_codes(self, text: str) -> list[int]:
        return [self._code(token.text) for token in self._tokenizer(text)]

    def _word_codes(self, word: str) -> _Codes:
        """Codes of a chunk as it was written: the rules that need no other word, then the table."""
        if word.isspace():
            return self._chunks[word]
        word = rule.lower_words(rule.mark_repeats(word))
        return tuple(chain.from_iterable(map(self._chunks.__getitem__, word.split(" "))))

    def _chunk_codes(self, chunk: str) -> _Codes:
        """Codes of a chunk that the rules have seen: spaCy's tokens."""
        if not chunk:
            return ()
        if chunk in self._across:
            raise _AcrossChunksError
        plain = _PLAIN.fullmatch(chunk)
        if plain:
            parts = _plain_parts(plain)
            if not self._hold_case(parts):
                return tuple(map(self._code, parts))
        tokens = [token.text for token in self._tokenizer(chunk)]
        if self._matched_cases.search(chunk) and tokens != [token.text for token in self._unmatched(chunk)]:
            self._across.add(chunk)
            raise _AcrossChunksError
        return tuple(map(self._code, tokens))

    def _hold_case(self, parts: list[str]) -> bool:
        """Whether some of the parts in a row are a special case together, as the last two of ``ex-Mrs.`` are."""
        spans = combinations(range(len(parts) + 1), 2)
        return any("".join(parts[start:end]) in self._cases for start, end in spans)

    def _code(self, token: str) -> int:
        # torchtext lowers behind spaCy; fastai has lowered before it, and marks spaces inside a token.
        token = token.replace(" ", "▁") if self._ulmfit else token.lower()
        code = self._codes.setdefault(token, len(self.lexicon))
        if code == len(self.lexicon):
            self.lexicon.append(token)
        return code


def _plain_parts(plain: re.Match[str]) -> list[str]:
    """Tokens of a word that ``_PLAIN`` has found."""
    front, stem, marks = plain.groups()
    parts = re.split("(-)", stem) if "-" in stem else [stem]
    return [*front, *parts, *([marks] if marks == "'s" else marks)]


def _chunks(text: str) -> Iterator[str]:
    """The chunks that spaCy makes of a text; an empty string stands for nothing.

    Of white space between two words, one space in front belongs to the word before; the rest is a chunk. At the start
    of a text all of it is.
    """
    lead = len(text) - len(text.lstrip())
    if lead:
        yield text[:lead]
    parts = _RUNS.split(text[lead:])
    for number, part in enumerate(parts):
        if number % 2:
            yield part.removeprefix(" ")
        else:
            yield from part.split(" ")


def _written_chunks(text: str, words: list[str]) -> list[str]:
    """The words of a text as they were written, and between them the white-space tokens that the rules leave."""
    parts = _LINES.split(rule.squeeze_spaces(text).strip())
    if len(parts) == 1:
        return words
    found = parts[0].split(" ")
    for space, segment in zip(parts[1::2], parts[2::2], strict=True):
        # Rules put a space in front of some characters: behind white space it belongs to the white space's token.
        found.append(f"{space} " if _spaced(segment[:3]) and not space.endswith(" ") else space)
        found += segment.split(" ")
    return found


def _spaced(start: str) -> bool:
    """Whether the rules put a space in front of a word that starts with these three characters."""
    return start[0] in "/#\\" or (len(start) == 3 and start[0] == start[1] == start[2])


def _tokenizers(rules: RuleName) -> "tuple[Tokenizer, Tokenizer]":
    """spaCy's English tokenizer with the preset's special tokens, and the same without its last step."""
    import spacy
    from spacy.symbols import ORTH
    from spacy.tokenizer import Tokenizer

    tokenizer = cast("Tokenizer", spacy.blank("en").tokenizer)
    for special in RULES[rules].specials:
        tokenizer.add_special_case(special, [{ORTH: special}])
    # Special cases join the last step only if an affix is found in them when they are added: here none is.
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
    """Finds in a chunk the special cases that spaCy's last step could change it by."""
    affixes = (tokenizer.find_prefix, tokenizer.find_suffix, tokenizer.find_infix)
    found = [case for case in tokenizer.rules if not case.isspace() and any(find(case) for find in affixes)]
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))
