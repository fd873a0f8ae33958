"""The true effects of the simulated reviews: how the sentiment determines the opinion words, and its exact log-odds.

A review has a hidden sentiment, ``pos`` or ``neg`` with probability 1/2 each. Only its opinions depend on it. Each
opinion is drawn independently:

1. with probability `NEGATED` it is negated by ``not``, ``never`` or ``hardly``;
2. a pair of opposite words (`PAIRS`) is drawn with probability proportional to its frequency;
3. with probability ``1 / (1 + exp(-clarity * w))``, where *w* is the weight of the pair, the word is the one that fits
   the sentiment (negated: the one that fits the opposite), else its opposite.

A word therefore adds ``clarity * w`` to the log-odds of its sentiment, or subtracts it if it is negated. Templates,
genre, names, length, capitals, repeated letters and punctuation do not depend on the sentiment. The sum over the
opinions, `log_odds`, is exactly the log of P(pos | text) / P(neg | text).

A model of word counts misses the negations: it counts "not very good" as ``not`` and as ``good``.
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
    """Two opposite opinion words, equally frequent over all reviews."""

    good: str
    bad: str
    weight: float  # log-odds of the word for its sentiment, at clarity 1
    frequency: float  # not normalised


def _pairs() -> tuple[Pair, ...]:
    """Weights between 0.6 and 2.8 repeat in a cycle, so that a word's weight does not depend on its frequency."""
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

_LOG_ODDS = {word: sign * pair.weight for pair in PAIRS for word, sign in ((pair.good, 1.0), (pair.bad, -1.0))}
_BETWEEN = {*INTENSIFIERS, *ARTICLES}
_WORD = re.compile(r"[a-z]+|[.!?,;:]")
_STRETCHED = re.compile(r"(.)\1{2,}")


def p_fitting(weight: float, clarity: float) -> float:
    """Return the probability that a pair's fitting word is drawn: the logistic function of its log-odds."""
    return 1.0 / (1.0 + math.exp(-clarity * weight))


def log_odds(text: str, clarity: float = 1.0) -> float:
    """Return the exact log P(pos | text) / P(neg | text) of a simulated review, in nats, computed from its text.

    An opinion word is negated if a negator is before it, with only articles and intensifiers between them.

    >>> round(log_odds("Not a very good film. It was GREAT!!!<br /><br />It was sooooo dull."), 9)  # -1.8 + 2.8 - 0.6
    0.4
    """
    plain = html.unescape(text.replace("<br />", " . ")).lower()
    tokens = [_STRETCHED.sub(r"\1", token) for token in _WORD.findall(plain)]
    total = 0.0
    for place, token in enumerate(tokens):
        if token not in _LOG_ODDS:
            continue
        before = place - 1
        while before >= 0 and tokens[before] in _BETWEEN:
            before -= 1
        negated = before >= 0 and tokens[before] in NEGATORS
        total += -_LOG_ODDS[token] if negated else _LOG_ODDS[token]
    return clarity * total


def certainty(odds: float) -> float:
    """Return the probability of the more likely sentiment: the Bayes classifier's expected accuracy on a review."""
    return 1.0 / (1.0 + math.exp(-abs(odds)))
