"""The law that the generated reviews follow, and the perfect reader of it.

A review has a hidden sentiment, ``pos`` or ``neg`` with probability 1/2 each, which shows in its opinions alone. Each
opinion is drawn independently:

1. with probability `NEGATED` it is negated: ``not``, ``never`` or ``hardly`` stands before it;
2. a pair of opposite words (`PAIRS`) is drawn with probability proportional to its frequency;
3. with probability ``1 / (1 + exp(-clarity * w))``, where *w* is the weight of the pair, the word is the one that fits
   the sentiment (negated: the one that fits the opposite), else its opposite.

So the word adds ``clarity * w`` to the log-odds of its own side, or takes as much away where it is negated, and nothing
else depends on the sentiment: templates, genre, names, length, capitals, repeated letters and marks do not. The sum
over the opinions, `log_odds`, is exactly the log of P(pos | text) / P(neg | text).

What a model of word counts misses is which opinions are negated: "not very good" counts as good and as not.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass

NEGATED = 0.15
"""Probability that an opinion is negated, whatever the sentiment."""

NEGATORS = ("not", "never", "hardly")
INTENSIFIERS = ("very", "really", "so", "truly", "quite", "pretty")
ARTICLES = ("a", "an")


@dataclass(frozen=True)
class Pair:
    """Two opposite words of opinion, equally frequent over all reviews."""

    good: str
    bad: str
    weight: float  # log-odds of the word for its own side, at clarity 1
    frequency: float  # not normalised


def _pairs() -> tuple[Pair, ...]:
    """Weights fall from 2.8 to 0.6 in turns, so that a word's frequency says nothing about its weight."""
    words = (
        "good/bad great/terrible funny/boring beautiful/ugly excellent/awful interesting/dull amazing/horrible "
        "brilliant/stupid enjoyable/annoying wonderful/dreadful fresh/stale moving/cold clever/silly perfect/pointless "
        "superb/lousy charming/irritating believable/ridiculous gripping/tedious fantastic/pathetic touching/wooden "
        "delightful/painful smart/dumb memorable/forgettable powerful/weak original/predictable lovely/nasty "
        "inspired/lifeless subtle/clumsy hilarious/unfunny masterful/amateurish stunning/shoddy honest/fake "
        "rewarding/worthless witty/lame flawless/sloppy thrilling/dreary elegant/crude captivating/unwatchable "
        "heartfelt/phoney magnificent/atrocious"
    )
    weights = (1.8, 2.8, 1.3, 1.0, 2.3, 0.6)
    return tuple(
        Pair(good, bad, weight=weights[rank % len(weights)], frequency=1.0 / (rank + 1))
        for rank, (good, bad) in enumerate(pair.split("/") for pair in words.split())
    )


PAIRS = _pairs()

_SIDE = {word: sign * pair.weight for pair in PAIRS for word, sign in ((pair.good, 1.0), (pair.bad, -1.0))}
_BETWEEN = {*INTENSIFIERS, *ARTICLES}
_WORD = re.compile(r"[a-z]+|[.!?,;:]")
_STRETCHED = re.compile(r"(.)\1{2,}")


def p_fitting(weight: float, clarity: float) -> float:
    """Return the probability that a pair's fitting word is drawn: the logistic function of its log-odds."""
    return 1.0 / (1.0 + math.exp(-clarity * weight))


def log_odds(text: str, clarity: float = 1.0) -> float:
    """Read a generated review as the law allows at best: log P(pos | text) / P(neg | text), in nats, from the text.

    A word of opinion is negated when a negator stands before it with nothing but articles and intensifiers between.

    >>> round(log_odds("Not a very good film. It was GREAT!!!<br /><br />It was sooooo dull."), 9)  # -1.8 + 2.8 - 0.6
    0.4
    """
    plain = html.unescape(text.replace("<br />", " . ")).lower()
    tokens = [_STRETCHED.sub(r"\1", token) for token in _WORD.findall(plain)]
    total = 0.0
    for place, token in enumerate(tokens):
        if token not in _SIDE:
            continue
        before = place - 1
        while before >= 0 and tokens[before] in _BETWEEN:
            before -= 1
        negated = before >= 0 and tokens[before] in NEGATORS
        total += -_SIDE[token] if negated else _SIDE[token]
    return clarity * total


def certainty(odds: float) -> float:
    """Return the probability of the likelier sentiment: the accuracy that a perfect reader expects on this review."""
    return 1.0 / (1.0 + math.exp(-abs(odds)))
