"""Token rules before and after spaCy, and their inverse: the presets ``dl1`` and ``ulmfit``. Strings only, no spaCy.

``dl1`` is the 2017 course: torchtext's ``Field(lower=True)`` over spaCy, ``<br />`` to newline, ``<eos>`` after each
document. Words are lowered after spaCy, as in torchtext. DIFF(torchtext): HTML references are resolved
(:func:`resolve_references`); the course kept them as words: ``r&amp;b``, ``quot;cult&quot``.

``ulmfit`` is fastai v2's default. :func:`fix_references`, :func:`mark_repeats`, :func:`mark_repeated_words`,
:func:`space_signs`, :func:`squeeze_spaces` and :func:`lower_capitals` run in this order on the whole document; then it
is lowered, stripped and preceded by ``xxbos``. fastai's special cases are kept, so that vocabularies and published
results stay comparable: ``1000`` becomes ``1 xxrep 3 0``; "very very" stays, three in a row are counted; a word gets a
case token only if white space surrounds it and its case is regular, so ``(Great)``, ``NASA's`` and ``McDonald's`` are
lowered without one; the single letters ``I`` and ``A`` get none; ``U.S.`` is ``xxup u.s.``. A special token in the text
(``xxfld 1``, ``<unk>``) keeps its meaning.
"""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

RuleName = Literal["dl1", "ulmfit"]

UNKNOWN, PADDING, BEGIN, END, FIELD = "xxunk", "xxpad", "xxbos", "xxeos", "xxfld"
REPEAT, WORD_REPEAT, UPPER, TITLE = "xxrep", "xxwrep", "xxup", "xxmaj"
DL1_UNKNOWN, DL1_PADDING, DL1_END = "<unk>", "<pad>", "<eos>"


@dataclass(frozen=True)
class RuleSet:
    """A preset: its special tokens in the order of their ids, and the tokens around every document.

    Attributes:
        unknown, padding: the special tokens for words outside the vocabulary and for padding.
        before, after: tokens before and after every document.
        min_freq, max_size: defaults of the vocabulary; ``max_size`` includes the special tokens, None means no limit.
    """

    name: RuleName
    specials: tuple[str, ...]
    unknown: str
    padding: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    min_freq: int
    max_size: int | None


_ULMFIT_SPECIALS = (UNKNOWN, PADDING, BEGIN, END, FIELD, REPEAT, WORD_REPEAT, UPPER, TITLE)
RULES: dict[RuleName, RuleSet] = {
    "dl1": RuleSet("dl1", (DL1_UNKNOWN, DL1_PADDING, DL1_END), DL1_UNKNOWN, DL1_PADDING, (), (DL1_END,), 10, None),
    "ulmfit": RuleSet("ulmfit", _ULMFIT_SPECIALS, UNKNOWN, PADDING, (BEGIN,), (), 3, 60_000),
}

# fastai's list in two: references without their "&", and line breaks and marks of other tokenizers.
_BARE_REFERENCES = (("#39;", "'"), ("#146;", "'"), ("nbsp;", " "), ("#36;", "$"), ("quot;", "'"))
_MARKS = (
    ("\\n", "\n"),
    ("<br />", "\n"),
    ('\\"', '"'),
    ("<unk>", UNKNOWN),
    (" @.@ ", "."),
    (" @-@ ", "-"),
    ("...", " …"),
)
_BARE_AMPERSAND = re.compile(r"(?<![A-Za-z])&?(?:amp;)+")
_MAX_ESCAPES = 3  # how often a text is unescaped: "&amp;amp;lt;" needs three, "&amp;amp;amp;…" must end

_REPEATED = re.compile(r"(\S)\1{2,}")
# Not the number of a field: a text that begins with it, twice, is in fastai a field without a number.
_REPEATED_WORD = re.compile(r"(?<!xxfld)(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
_SIGNS = re.compile(r"[/#\\]")
_SPACES = re.compile(r" {2,}")
_ALL_CAPITALS = re.compile(r"(?<!\S)[A-Z]+[^a-z\s]*(?!\S)")
_WORD = re.compile(r"\S+")
_ONE_CAPITAL = re.compile(r"(?<!\S)[A-Z][^A-Z\s]*(?!\S)")

# Tokens without a space before them, and tokens without a space after them.
_NO_SPACE_BEFORE = re.compile(r"[.,!?;:)\]}%\u2026/\\]+|n['\u2019]t|['\u2019](?:s|re|ve|ll|d|m)", re.IGNORECASE)
_NO_SPACE_AFTER = re.compile(r"[(\[{$£€#/\\]+")
_DROPPED = {BEGIN, END, PADDING, DL1_END, DL1_PADDING}
_LONGEST = 1000  # repetitions at most: a language model may generate "xxrep 99999999 !"


def dl1_text(text: str) -> str:
    """Apply the rules of ``dl1`` that come before spaCy; capitals stay, since the tokens are lowered after it."""
    return resolve_references(text).replace("<br />", "\n").rstrip("\n")


def ulmfit_text(text: str, capitals: Callable[[str], str] | None = None) -> str:
    """Apply the rules of ``ulmfit``, with ``xxbos`` at the start; spaCy comes after them.

    ``capitals`` is the rule of capitals; None: :func:`lower_capitals`, that of English.
    """
    for rule in (
        fix_references,
        mark_repeats,
        mark_repeated_words,
        space_signs,
        squeeze_spaces,
        capitals or lower_capitals,
    ):
        text = rule(text)
    return f"{BEGIN} {text.lower().strip()}"


def resolve_references(text: str) -> str:
    """Replace HTML references, with or without their ``&``, by their characters.

    DIFF(fastai): whole references are resolved first. fastai replaces ``amp;``, ``#39;`` and ``quot;`` first, which
    leaves the ``&`` before them in the text: ``it&#39;s`` became ``it&'s``, and ``&amp;`` became ``&&``. For the same
    reason ``amp;`` at the end of a word (swamp; camp;) does not change. ``&nbsp;`` becomes an ordinary space.
    """
    text = _unescape(text)
    if ";" not in text:
        return text
    for reference, meaning in _BARE_REFERENCES:
        text = text.replace(reference, meaning)
    if "amp;" in text:
        text = _unescape(_BARE_AMPERSAND.sub("&", text))  # "amp;lt;" is "&lt;" by now
    return text


def _unescape(text: str) -> str:
    """Resolve whole references, including those that were escaped two or three times."""
    for _ in range(_MAX_ESCAPES):
        if "&" not in text:
            break
        found = html.unescape(text.replace("&nbsp;", " "))
        if found == text:
            break
        text = found
    return text


def fix_references(text: str) -> str:
    """Resolve HTML references, and replace ``<br />`` and the marks of other tokenizers."""
    text = resolve_references(text)
    for mark, meaning in _MARKS:
        if mark in text:
            text = text.replace(mark, meaning)
    return text


def mark_repeats(text: str) -> str:
    """Replace a character that repeats three times or more: ``!!!!`` becomes ``xxrep 4 !``, with spaces around."""
    return _REPEATED.sub(lambda found: f" {REPEAT} {found.end() - found.start()} {found[1]} ", text)


def mark_repeated_words(text: str) -> str:
    """Replace a word that repeats three times or more: ``no no no`` becomes ``xxwrep 3 no``; case matters.

    DIFF(fastai): the number after ``xxfld`` does not count, so that "xxfld 1 1 1 …" is still the first field.
    """
    return _REPEATED_WORD.sub(lambda found: f" {WORD_REPEAT} {len(found[2].split()) + 2} {found[1]} {found[3]}", text)


def space_signs(text: str) -> str:
    r"""Add spaces around ``/``, ``#`` and ``\``."""
    return _SIGNS.sub(r" \g<0> ", text) if "/" in text or "#" in text or "\\" in text else text


def squeeze_spaces(text: str) -> str:
    """Replace runs of spaces by one space; other white space stays."""
    return _SPACES.sub(" ", text) if "  " in text else text


def lower_capitals(text: str) -> str:
    """Lower words between white space: ``NASA`` to ``xxup nasa``, ``Great,`` to ``xxmaj great,``, ``I`` to ``i``."""
    if text == text.lower():
        return text
    return _ONE_CAPITAL.sub(partial(_lowered, TITLE), _ALL_CAPITALS.sub(partial(_lowered, UPPER), text))


def lower_unicode_capitals(text: str) -> str:
    """As :func:`lower_capitals`, with the capitals of all scripts: ``Über`` becomes ``xxmaj über``.

    fastai's rule, which English keeps, knows A to Z only.
    """
    return _WORD.sub(_lower_word, text)


def _lower_word(found: re.Match[str]) -> str:
    word = found[0]
    if not word[0].isupper():
        return word
    if not any(map(str.islower, word)):
        return _lowered(UPPER, found)
    return word if any(map(str.isupper, word[1:])) else _lowered(TITLE, found)


def _lowered(mark: str, found: re.Match[str]) -> str:
    return f"{mark} {found[0].lower()}" if len(found[0]) > 1 else found[0].lower()


def detokenize(tokens: Sequence[str]) -> str:
    """Convert tokens to text.

    ``xxmaj``, ``xxup``, ``xxrep`` and ``xxwrep`` are applied, ``xxbos``, ``xxeos`` and padding are dropped, ``xxfld``
    starts a new line, punctuation and ``n't`` are joined to the word before. A special token without a valid successor,
    as a language model may generate it, is left out.
    """
    return _join(_words(tokens)).strip()


def _words(tokens: Sequence[str]) -> list[str]:
    """The words, changed by the special tokens before them; white space and fields do not change."""
    words: list[str] = []
    mark, shouting, number = "", False, 0
    while number < len(tokens):
        token = tokens[number]
        number += 1
        if token in _DROPPED:
            continue
        if token in (UPPER, TITLE):
            mark = token
            continue
        if token == FIELD:
            number += number < len(tokens) and tokens[number].isdecimal()
            words.append("\n")
            continue
        if token in (REPEAT, WORD_REPEAT):
            if number + 1 >= len(tokens) or not tokens[number].isdecimal():
                continue
            times, repeated = min(int(tokens[number]), _LONGEST), tokens[number + 1]
            number += 2
            found = [repeated * times] if token == REPEAT else [repeated] * times
        else:
            found = [token.replace("▁", " ")]
        clitic = bool(_NO_SPACE_BEFORE.fullmatch(token))
        shouting = mark == UPPER or (shouting and clitic and not mark)
        if shouting:
            found = [word.upper() for word in found]
        elif mark == TITLE:
            found[0] = found[0][:1].upper() + found[0][1:]
        mark = ""
        words += found
    return words


def _join(words: Sequence[str]) -> str:
    text, quoted, glued = "", False, True
    for word in words:
        if word.isspace():
            text, glued = text.rstrip(" ") + word, True
            continue
        closing = word == '"' and quoted
        quoted ^= word == '"'
        text += word if glued or closing or _NO_SPACE_BEFORE.fullmatch(word) else f" {word}"
        glued = bool(_NO_SPACE_AFTER.fullmatch(word)) or (word == '"' and quoted)
    return text
