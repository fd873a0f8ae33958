"""Simulated reviews in the layout of the Large Movie Review Dataset, for runs and tests without the real archive.

They have the real archive's folders and file names (``aclImdb/train/pos/0_9.txt``: number and rating, 7 to 10 for
``pos``, 1 to 4 for ``neg``, 0 for ``unsup``) and its irregularities: ``<br /><br />`` between paragraphs, HTML
entities, words in capitals, ``sooooo`` and ``!!!!!``, accented names, words that occur once or twice. A language model
can learn the templates of the sentences and the nouns of each genre.

The sentiment follows the true effects below: results on them say nothing about real reviews. A review has a hidden
sentiment, ``pos`` or ``neg`` with probability 1/2 each. Only its opinions depend on it. Each is drawn independently:

1. with probability `NEGATED` it is negated by ``not``, ``never`` or ``hardly``;
2. a pair of opposite words (`PAIRS`) is drawn with probability proportional to its frequency;
3. with probability ``1 / (1 + exp(-clarity * w))``, where *w* is the weight of the pair, the word is the one that fits
   the sentiment (negated: the one that fits the opposite), else its opposite.

A word therefore adds ``clarity * w`` to the log-odds of its sentiment, or subtracts it if it is negated. The sum over
the opinions, `log_odds`, is exactly the log of P(pos | text) / P(neg | text), and `bayes_accuracy` is the best accuracy
that a classifier can expect. A model of word counts misses the negations: it counts "not very good" as ``not`` and as
``good``.
"""

from __future__ import annotations

import html
import math
import re
from random import Random
from statistics import fmean
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from embedline.training.options import Options

NEGATED = 0.15
"""Probability that an opinion is negated, whatever the sentiment."""

NEGATORS = ("not", "never", "hardly")
INTENSIFIERS = ("very", "really", "so", "truly", "quite", "pretty")
ARTICLES = ("a", "an")


class Pair(NamedTuple):
    """Two opposite opinion words, equally frequent over all reviews."""

    good: str
    bad: str
    weight: float  # log-odds of the word for its sentiment, at clarity 1
    frequency: float  # not normalised


_PAIR_WORDS = (
    "good/bad great/terrible funny/boring beautiful/ugly excellent/awful interesting/dull amazing/horrible "
    "brilliant/stupid enjoyable/annoying wonderful/dreadful fresh/stale moving/cold clever/silly perfect/pointless "
    "superb/lousy charming/irritating believable/ridiculous gripping/tedious fantastic/pathetic touching/wooden "
    "delightful/painful smart/dumb memorable/forgettable powerful/weak original/predictable lovely/nasty "
    "inspired/lifeless subtle/clumsy hilarious/unfunny masterful/amateurish stunning/shoddy honest/fake "
    "rewarding/worthless witty/lame flawless/sloppy thrilling/dreary elegant/crude captivating/unwatchable "
    "heartfelt/phoney magnificent/atrocious"
)
_WEIGHTS = (1.8, 2.8, 1.3, 1.0, 2.3, 0.6)  # repeat, so that a word's weight does not depend on its frequency
PAIRS = tuple(
    Pair(good, bad, weight=_WEIGHTS[rank % len(_WEIGHTS)], frequency=1.0 / (rank + 1))
    for rank, (good, bad) in enumerate(pair.split("/") for pair in _PAIR_WORDS.split())
)

_LOG_ODDS = {word: sign * pair.weight for pair in PAIRS for word, sign in ((pair.good, 1.0), (pair.bad, -1.0))}
_BETWEEN = {*INTENSIFIERS, *ARTICLES}
_WORD = re.compile(r"[a-z]+|[.!?,;:]")
_STRETCHED = re.compile(r"(.)\1{2,}")

# None of the words and sentences that follow depends on the sentiment.
COMMON: dict[str, list[str]] = {
    "{film}": "film movie picture story flick feature".split(),
    "{craft}": (
        "plot acting script music ending dialogue photography direction editing cast soundtrack scenery pacing "
        "opening lighting makeup narration camerawork"
    ).split(),
    "{see}": "saw watched rented caught borrowed found".split(),
    "{when}": "yesterday recently twice again tonight once lately".split(),
    "{with}": "friends family brother sister wife husband neighbour cousin class kids".split(),
    "{think}": "think say guess believe feel suppose".split(),
    "{where}": "television video cinema cable DVD festival theatre".split(),
    "{move}": "starts ends opens continues moves slows".split(),
    "{link}": "is was seems feels remains".split(),
    "{who}": "director writer producer actor actress star composer editor".split(),
    "{time}": "minutes hours days weeks years".split(),
    "{year}": list(map(str, range(1930, 2006))),
    "{number}": "2 3 10 90 100 120 1000".split(),
    "{entity}": ["Q&amp;A", "R&amp;B", "&quot;classic&quot;", "&quot;cult&quot;", "&#39;80s", "rock &amp; roll"],
}

_GENRES = {
    "horror": (
        "ghost blood knife grave curse scream shadow mask candle cellar fog mirror",
        "killer witch vampire doctor priest widow zombie monster",
        "house forest graveyard castle attic asylum swamp",
        "haunts kills hunts chases bites buries",
    ),
    "war": (
        "battle gun bomb order medal letter tank uniform trench flag rifle map",
        "soldier general nurse spy pilot prisoner sergeant colonel",
        "front desert bridge camp village harbour bunker",
        "attacks rescues commands betrays shoots guards",
    ),
    "romance": (
        "wedding kiss letter dance ring summer secret promise rose dress photograph dinner",
        "bride poet teacher dancer painter waiter stranger florist",
        "beach garden café ballroom balcony church island",
        "loves marries leaves kisses meets forgives",
    ),
    "space": (
        "ship laser planet robot signal comet engine capsule orbit antenna shuttle reactor",
        "captain alien astronaut android scientist commander navigator mutant",
        "moon station galaxy colony crater laboratory airlock",
        "repairs explores destroys lands decodes abandons",
    ),
    "crime": (
        "murder robbery clue money alibi evidence case diamond bribe trial warrant ransom",
        "detective thief lawyer gangster witness banker inspector smuggler",
        "bank court alley casino prison warehouse dock",
        "steals arrests follows blackmails questions escapes",
    ),
    "western": (
        "horse duel saloon gold train bullet cattle wagon saddle whiskey spur stagecoach",
        "sheriff cowboy outlaw rancher bandit barber gambler deputy",
        "canyon town ranch railway prairie mine fort",
        "rides ambushes hangs challenges tracks outruns",
    ),
}

GENRES: list[dict[str, list[str]]] = [
    dict(zip(("{noun}", "{person}", "{place}", "{deed}"), map(str.split, lists), strict=True))
    for lists in _GENRES.values()
]

OPINION_SENTENCES = [
    line.split()
    for line in """
the {craft} {link} {opinion}
the {craft} {link} {opinion} and the {craft} {link} {opinion}
I {think} the {film} {link} {opinion}
it is {an_opinion} {film} about a {person} and the {noun}
this is {an_opinion} {film} from the {who} of {name}
{name} is {opinion} as the {person}
the {person} in the {place} {link} {opinion} but the {craft} {link} {opinion}
we {see} it on {where} and it was {opinion}
for {number} {time} the {film} {link} {opinion}
my {with} said it was {opinion} , and the {noun} was {opinion}
the scene with the {noun} in the {place} {link} {opinion}
{name} and {name} have {an_opinion} scene near the {place}
""".strip().splitlines()
]
PLAIN_SENTENCES = [
    line.split()
    for line in """
I {see} this {film} on {where} {when}
I {see} it with my {with} in {year}
the {film} {move} with a {noun} in the {place}
a {person} {deed} the {person} in the {place}
{name} plays the {person} who {deed} the {person}
then the {person} {deed} the {person} and takes the {noun}
the {who} {name} made it in {year} after {number} {time}
it {move} when the {noun} falls into the {place}
there is a {noun} , a {person} and a {place}
after {number} {time} the {person} finds the {noun} near the {place}
people call it {entity} on {where}
the {who} said in {year} that the {place} was real
{name} wrote the {craft} for {name}
""".strip().splitlines()
]

_STARTS = "Bar Cor Del Fen Gar Hol Jor Kel Lin Mar Nor Pel Ros Sté Tor Vin".split()
_ENDS = "dale vik mond ston win berg bière ley nik sson".split()
NAMES = [
    start + _ENDS[(place + turn) % len(_ENDS)] for turn in range(len(_ENDS)) for place, start in enumerate(_STARTS)
]
"""160 invented surnames, the most frequent first."""

_FREQUENCIES = [pair.frequency for pair in PAIRS]
_NAME_FREQUENCIES = [(rank + 2.0) ** -1.6 for rank in range(len(NAMES))]
_OPINIONS = 0.58  # fraction of sentences with an opinion
_PARAGRAPH, _SHOUT, _STRETCH, _MARKS = 0.12, 0.06, 0.08, 0.1  # fractions of sentences, words, intensifiers, sentences
_VOWELS = "aeiou"


class GeneratorOptions(Options):
    """Number, length and clarity of the simulated reviews."""

    n_train: int = Field(default=800, ge=2, description="labelled training reviews, half of them pos")
    n_test: int = Field(default=400, ge=2)
    n_unlabelled: int = Field(default=800, ge=0)
    seed: int = Field(default=0, ge=0)
    min_words: int = Field(default=20, ge=1, description="words, separated by spaces, of the shortest review")
    max_words: int = Field(default=120, ge=40)
    clarity: float = Field(default=1.0, ge=0, le=20, allow_inf_nan=False, description="factor of all log-odds")

    @model_validator(mode="after")
    def _lengths_in_order(self) -> Self:
        if self.max_words < self.min_words + 20:
            limits = f"{self.min_words} and {self.max_words}"
            raise ValueError(f"max_words must exceed min_words by 20, a sentence, got {limits}")
        return self


def generate_files(options: GeneratorOptions) -> dict[str, bytes]:
    """Simulate the reviews; equal options give equal bytes.

    Each folder has its own random generator: more reviews in one folder change neither the other folders nor the first
    reviews of the folder. UTF-8 text by member name: ``aclImdb/{train,test}/{pos,neg}/<number>_<rating>.txt``, ….
    """
    files = {}
    for split, count in (("train", options.n_train), ("test", options.n_test)):
        for label, n_reviews in (("pos", (count + 1) // 2), ("neg", count // 2)):
            rng = Random(f"{options.seed}/{split}/{label}")
            for number in range(n_reviews):
                text, strength = _review(rng, label == "pos", options)
                rating = 7 + strength if label == "pos" else 4 - strength
                files[f"aclImdb/{split}/{label}/{number}_{rating}.txt"] = text.encode()
    rng = Random(f"{options.seed}/unsup")
    for number in range(options.n_unlabelled):
        text, _ = _review(rng, rng.random() < 0.5, options)
        files[f"aclImdb/train/unsup/{number}_0.txt"] = text.encode()
    return files


def bayes_accuracy(options: GeneratorOptions) -> float:
    """Return the expected accuracy of the Bayes classifier on the simulated test reviews.

    It is the mean of P(more likely sentiment | text) over the reviews, from the exact log-odds. No classifier has a
    higher expected accuracy; on the labels as drawn the accuracy may be a little higher.
    """
    return fmean(certainty(log_odds(text, options.clarity)) for _, text in _test_reviews(options))


def _test_reviews(options: GeneratorOptions) -> list[tuple[str, str]]:
    files = generate_files(options.model_copy(update={"n_train": 2, "n_unlabelled": 0}))
    return [(name.split("/")[2], data.decode()) for name, data in files.items() if name.startswith("aclImdb/test/")]


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
    total, negated = 0.0, False
    for token in tokens:
        total += (-1 if negated else 1) * _LOG_ODDS.get(token, 0.0)
        negated = token in NEGATORS or (negated and token in _BETWEEN)
    return clarity * total


def certainty(odds: float) -> float:
    """Return the probability of the more likely sentiment: the Bayes classifier's expected accuracy on a review."""
    return 1.0 / (1.0 + math.exp(-abs(odds)))


def _review(rng: Random, positive: bool, options: GeneratorOptions) -> tuple[str, int]:
    """Return one review, and the strength of its sentiment from 0 to 3, which only the file's name shows."""
    target = rng.randint(options.min_words, options.max_words)
    genre = GENRES[rng.randrange(len(GENRES))]
    names = rng.choices(NAMES, _NAME_FREQUENCIES, k=3)
    text = ""
    while True:
        sentence = _sentence(rng, positive, options.clarity, genre, names)
        joint = "" if not text else "<br /><br />" if rng.random() < _PARAGRAPH else " "
        longer = text + joint + sentence
        if len(longer.split()) > target and len(text.split()) >= options.min_words:
            break
        text = longer
    return text, rng.choices((0, 1, 2, 3), (2, 3, 3, 2))[0]


def _sentence(rng: Random, positive: bool, clarity: float, genre: dict[str, list[str]], names: list[str]) -> str:
    """Fill the slots of a template. Only the opinion words depend on ``positive``."""
    has_opinion = rng.random() < _OPINIONS
    template = rng.choice(OPINION_SENTENCES if has_opinion else PLAIN_SENTENCES)
    slots = {**COMMON, **genre, "{name}": names}
    words: list[str] = []
    for token in template:
        if token in ("{opinion}", "{an_opinion}"):
            words += _opinion(rng, positive, clarity, article=token == "{an_opinion}")
        else:
            words.append(rng.choice(slots[token]) if token in slots else token)
    for place, word in enumerate(words[1:], start=1):
        if words[place - 1] == "a" and _sounds_open(word):
            words[place - 1] = "an"
    words[0] = words[0][0].upper() + words[0][1:]
    return " ".join(words).replace(" ,", ",") + _end(rng)


def _opinion(rng: Random, positive: bool, clarity: float, *, article: bool) -> list[str]:
    """Draw an opinion: [negator] [article] [intensifier] word."""
    negated = rng.random() < NEGATED
    pair = rng.choices(PAIRS, _FREQUENCIES)[0]
    fits = rng.random() < p_fitting(pair.weight, clarity)
    word = pair.good if fits == (positive != negated) else pair.bad
    phrase = ["a"] if article else []
    if rng.random() < 0.3:
        drawn = rng.choice(INTENSIFIERS)
        phrase.append(_stretched(rng, drawn) if rng.random() < 2 * _STRETCH else drawn)
    phrase.append(word.upper() if rng.random() < _SHOUT else word)
    return [rng.choice(NEGATORS), *phrase] if negated else phrase


def _sounds_open(word: str) -> bool:
    """Whether the article before the word is ``an``."""
    word = word.lower()
    return word == "honest" or (word[0] in _VOWELS and word != "uniform")


def _stretched(rng: Random, word: str) -> str:
    """Repeat the last vowel: ``so`` becomes ``sooooo``."""
    place = max(word.rfind(vowel) for vowel in _VOWELS)
    return word[:place] + word[place] * rng.randint(4, 8) + word[place + 1 :]


def _end(rng: Random) -> str:
    return rng.choice(("!", "!!!", "!!!!!", "...", "?!")) if rng.random() < _MARKS else "."
