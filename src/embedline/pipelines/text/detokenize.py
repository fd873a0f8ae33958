"""Convert tokens to readable text."""

import re
from collections.abc import Sequence

from embedline.pipelines.text import preprocessing as rule

# Tokens without a space before them, and tokens without a space after them.
_NO_SPACE_BEFORE = re.compile(r"[.,!?;:)\]}%\u2026/\\]+|n['\u2019]t|['\u2019](?:s|re|ve|ll|d|m)", re.IGNORECASE)
_NO_SPACE_AFTER = re.compile(r"[(\[{$£€#/\\]+")
_DROPPED = {rule.BEGIN, rule.END, rule.PADDING, rule.DL1_END, rule.DL1_PADDING}
_LONGEST = 1000  # repetitions at most: a language model may generate "xxrep 99999999 !"


def detokenize(tokens: Sequence[str]) -> str:
    """Convert tokens to text.

    ``xxmaj``, ``xxup``, ``xxrep`` and ``xxwrep`` are applied, ``xxbos``, ``xxeos`` and padding are dropped, ``xxfld``
    starts a new line, punctuation and ``n't`` are joined to the word before.

    A special token without a valid successor, as a language model may generate it, is left out.
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
        if token in (rule.UPPER, rule.TITLE):
            mark = token
            continue
        if token == rule.FIELD:
            number += number < len(tokens) and tokens[number].isdecimal()
            words.append("\n")
            continue
        if token in (rule.REPEAT, rule.WORD_REPEAT):
            if number + 1 >= len(tokens) or not tokens[number].isdecimal():
                continue
            times, repeated = min(int(tokens[number]), _LONGEST), tokens[number + 1]
            number += 2
            found = [repeated * times] if token == rule.REPEAT else [repeated] * times
        else:
            found = [token.replace("▁", " ")]
        clitic = bool(_NO_SPACE_BEFORE.fullmatch(token))
        shouting = mark == rule.UPPER or (shouting and clitic and not mark)
        if shouting:
            found = [word.upper() for word in found]
        elif mark == rule.TITLE:
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
