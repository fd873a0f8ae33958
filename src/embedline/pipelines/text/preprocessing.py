"""What happens to a text before and after spaCy: the presets ``dl1`` and ``ulmfit``; plain strings, no spaCy.

``dl1`` is the 2017 course: torchtext's ``Field(lower=True)`` over spaCy, ``<br />`` to newline, ``<eos>`` after each
document. Words keep their capitals for spaCy and are lowered after it, as torchtext does. DIFF(torchtext): HTML
references are resolved (:func:`resolve_references`), which the course left as words: ``r&amp;b``, ``quot;cult&quot``.

``ulmfit`` is fastai v2's default. :func:`fix_references`, :func:`mark_repeats`, :func:`mark_repeated_words`,
:func:`space_signs`, :func:`squeeze_spaces` and :func:`lower_capitals` run in this order on the whole document; then it
is lowered, stripped and headed by ``xxbos``. Its quirks are kept, so that vocabularies and published figures stay
comparable: ``1000`` becomes ``1 xxrep 3 0``; "very very" stays, three in a row are counted; a word gets a case token
only if it stands between white space and its case is regular, so ``(Great)``, ``NASA's`` and ``McDonald's`` are lowered
without one; the single letters ``I`` and ``A`` get none; ``U.S.`` is ``xxup u.s.``. A special token that stands in the
text itself (``xxfld 1``, ``<unk>``) is taken as that token.
"""

import html
import re
from dataclasses import dataclass
from typing import Literal

RuleName = Literal["dl1", "ulmfit"]

UNKNOWN, PADDING, BEGIN, END, FIELD = "xxunk", "xxpad", "xxbos", "xxeos", "xxfld"
REPEAT, WORD_REPEAT, UPPER, TITLE = "xxrep", "xxwrep", "xxup", "xxmaj"
DL1_UNKNOWN, DL1_PADDING, DL1_END = "<unk>", "<pad>", "<eos>"


@dataclass(frozen=True)
class RuleSet:
    """A preset: its special tokens in the order of their ids, and what stands around every document.

    Attributes:
        specials: special tokens; ``specials[k]`` has the id ``k`` in every vocabulary of this preset.
        unknown, padding: which of them stand for a word outside the vocabulary and for no word.
        before, after: tokens in front of and behind every document.
        min_freq, max_size: the vocabulary's defaults; ``max_size`` counts the special tokens, None is no limit.
    """

    name: RuleName
    specials: tuple[str, ...]
    unknown: str
    padding: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    min_freq: int
    max_size: int | None


RULES: dict[RuleName, RuleSet] = {
    "dl1": RuleSet("dl1", (DL1_UNKNOWN, DL1_PADDING, DL1_END), DL1_UNKNOWN, DL1_PADDING, (), (DL1_END,), 10, None),
    "ulmfit": RuleSet(
        "ulmfit",
        (UNKNOWN, PADDING, BEGIN, END, FIELD, REPEAT, WORD_REPEAT, UPPER, TITLE),
        UNKNOWN,
        PADDING,
        (BEGIN,),
        (),
        3,
        60_000,
    ),
}

# fastai's list, in two: references that lost their "&" on the way, and line breaks and other tokenizers' marks.
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
_MAX_ESCAPES = 3  # "&amp;amp;lt;": as often as a text is unescaped; a bound, for the sake of "&amp;amp;amp;…"

_REPEATED = re.compile(r"(\S)\1{2,}")
_REPEATED_WORD = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
_SIGNS = re.compile(r"[/#\\]")
_SPACES = re.compile(r" {2,}")
_ALL_CAPITALS = re.compile(r"(?<!\S)[A-Z]+[^a-z\s]*(?!\S)")
_ONE_CAPITAL = re.compile(r"(?<!\S)[A-Z][^A-Z\s]*(?!\S)")


def dl1_text(text: str) -> str:
    """A document as spaCy is to see it under ``dl1``; capitals stay, the tokens are lowered afterwards."""
    return resolve_references(text).replace("<br />", "\n").rstrip("\n")


def ulmfit_text(text: str) -> str:
    """A document as spaCy is to see it under ``ulmfit``, with ``xxbos`` in front."""
    return ulmfit_tail(mark_repeated_words(mark_repeats(fix_references(text))))


def ulmfit_tail(text: str) -> str:
    """The rules after :func:`mark_repeated_words`; but for the strip, each white-space-delimited word on its own."""
    return f"{BEGIN} {lower_words(text).strip()}"


def lower_words(text: str) -> str:
    """The rules from :func:`space_signs` to the lower case: what they do to a word needs no other word."""
    return lower_capitals(squeeze_spaces(space_signs(text))).lower()


def resolve_references(text: str) -> str:
    """Replace HTML references, whole or without their ``&``, by the characters that they stand for.

    DIFF(fastai): whole references are resolved first. fastai replaces ``amp;``, ``#39;`` and ``quot;`` first, which
    leaves the ``&`` before them in the text: ``it&#39;s`` became ``it&'s``, and ``&amp;`` became ``&&``. For the same
    reason ``amp;`` at the end of a word (swamp; camp;) is left alone. ``&nbsp;`` becomes an ordinary space.
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
    """Resolve whole references, also those that were escaped twice or three times."""
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
    """A character three times or more: ``!!!!`` to ``xxrep 4 !``, with spaces around."""
    return _REPEATED.sub(lambda found: f" {REPEAT} {found.end() - found.start()} {found[1]} ", text)


def mark_repeated_words(text: str) -> str:
    """A word three times or more: ``no no no`` to ``xxwrep 3 no``; equal in case too."""
    return _REPEATED_WORD.sub(lambda found: f" {WORD_REPEAT} {len(found[2].split()) + 2} {found[1]} {found[3]}", text)


def space_signs(text: str) -> str:
    r"""Spaces around ``/``, ``#`` and ``\``."""
    return _SIGNS.sub(r" \g<0> ", text) if "/" in text or "#" in text or "\\" in text else text


def squeeze_spaces(text: str) -> str:
    """Runs of spaces to one; other white space stays."""
    return _SPACES.sub(" ", text) if "  " in text else text


def lower_capitals(text: str) -> str:
    """``NASA`` to ``xxup nasa``, ``Great,`` to ``xxmaj great,``, ``I`` to ``i``, where a word stands free."""
    if text == text.lower():
        return text
    return _ONE_CAPITAL.sub(_lowered_title, _ALL_CAPITALS.sub(_lowered_upper, text))


def _lowered_upper(found: re.Match[str]) -> str:
    word = found[0]
    return f"{UPPER} {word.lower()}" if len(word) > 1 else word.lower()


def _lowered_title(found: re.Match[str]) -> str:
    word = found[0]
    return f"{TITLE} {word.lower()}" if len(word) > 1 else word.lower()
