"""A simulator of reviews in the layout of the Large Movie Review Dataset, for runs and tests without the real archive.

The reviews are simulated: results on them say nothing about real reviews. They have the real archive's folders and file
names (``aclImdb/train/pos/0_9.txt``: number and rating, 7 to 10 for ``pos``, 1 to 4 for ``neg``, 0 for ``unsup``) and
its irregularities: ``<br /><br />`` between paragraphs, HTML entities, words in capitals, ``sooooo`` and ``!!!!!``,
accented names, words that occur once or twice.

The sentiment follows the probabilities in `embedline.sources.imdb_law`; `bayes_accuracy` is the best accuracy that a
classifier can expect. A language model can learn the templates of the sentences and the nouns of each genre.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedline.sources.imdb_law import (
    INTENSIFIERS,
    NEGATED,
    NEGATORS,
    PAIRS,
    certainty,
    log_odds,
    p_fitting,
)
from embedline.sources.imdb_words import (
    COMMON,
    ENTITIES,
    GENRES,
    OPINION_SENTENCES,
    PLAIN_SENTENCES,
    rare_names,
)

_FREQUENCIES = [pair.frequency for pair in PAIRS]
_NAMES = rare_names()
_NAME_FREQUENCIES = [(rank + 2.0) ** -1.6 for rank in range(len(_NAMES))]
_OPINIONS = 0.58  # fraction of sentences with an opinion
_PARAGRAPH, _SHOUT, _STRETCH, _MARKS = 0.12, 0.06, 0.08, 0.1  # fractions of sentences, words, intensifiers, sentences
_VOWELS = "aeiou"


class GeneratorOptions(BaseModel):
    """Number, length and clarity of the simulated reviews."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_train: int = Field(default=800, ge=2, description="labelled training reviews, half of them pos")
    n_test: int = Field(default=400, ge=2)
    n_unlabelled: int = Field(default=800, ge=0)
    seed: int = Field(default=0, ge=0)
    min_words: int = Field(default=20, ge=1, description="words, separated by spaces, of the shortest review")
    max_words: int = Field(default=120, ge=40)
    clarity: float = Field(
        default=1.0,
        ge=0,
        le=20,
        allow_inf_nan=False,
        description="factor of all log-odds; 0: no word depends on the sentiment",
    )

    @model_validator(mode="after")
    def _lengths_in_order(self) -> Self:
        if self.max_words < self.min_words + 20:
            raise ValueError(
                f"max_words must exceed min_words by 20, a sentence, got {self.min_words} and {self.max_words}"
            )
        return self


def generate_files(options: GeneratorOptions) -> dict[str, bytes]:
    """Simulate the reviews; equal options give equal bytes.

    Each folder has its own random generator: more reviews in one folder change neither the other folders nor the first
    reviews of the folder.

    Returns:
        UTF-8 text by member name: ``aclImdb/{train,test}/{pos,neg}/<number>_<rating>.txt``, ``aclImdb/train/unsup/…``.
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
    higher expected accuracy; on the drawn labels the accuracy may be a little higher, see `perfect_accuracy`.
    """
    return _mean([certainty(log_odds(text, options.clarity)) for _, text in _test_reviews(options)])


def perfect_accuracy(options: GeneratorOptions) -> float:
    """Return the accuracy of the Bayes classifier on the labels of the simulated test reviews; a tie counts half.

    Compare a model with this number on the same reviews: both have the same random labels.
    """
    scores = []
    for label, text in _test_reviews(options):
        odds = log_odds(text, options.clarity) * (1 if label == "pos" else -1)
        scores.append(0.5 if abs(odds) < 1e-9 else float(odds > 0))
    return _mean(scores)


def _test_reviews(options: GeneratorOptions) -> list[tuple[str, str]]:
    files = generate_files(options.model_copy(update={"n_train": 2, "n_unlabelled": 0}))
    return [(name.split("/")[2], data.decode()) for name, data in files.items() if name.startswith("aclImdb/test/")]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _review(rng: Random, positive: bool, options: GeneratorOptions) -> tuple[str, int]:
    """Return one review, and the strength of its sentiment from 0 to 3, which only the file's name shows."""
    target = rng.randint(options.min_words, options.max_words)
    genre = GENRES[rng.randrange(len(GENRES))]
    names = rng.choices(_NAMES, _NAME_FREQUENCIES, k=3)
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
    words: list[str] = []
    for token in template:
        if token == "{opinion}":
            words += _opinion(rng, positive, clarity)
        elif token == "{an_opinion}":
            words += _opinion(rng, positive, clarity, article=True)
        elif token == "{name}":
            words.append(rng.choice(names))
        elif token == "{year}":
            words.append(str(rng.randint(1930, 2005)))
        elif token == "{number}":
            words.append(str(rng.choice((2, 3, 10, 90, 100, 120, 1000))))
        elif token == "{entity}":
            words.append(rng.choice(ENTITIES))
        elif token in COMMON:
            words.append(rng.choice(COMMON[token]))
        elif token in genre:
            words.append(rng.choice(genre[token]))
        else:
            words.append(token)
    for place, word in enumerate(words[1:], start=1):
        if words[place - 1] == "a" and _sounds_open(word):
            words[place - 1] = "an"
    words[0] = words[0][0].upper() + words[0][1:]
    return " ".join(words).replace(" ,", ",") + _end(rng)


def _opinion(rng: Random, positive: bool, clarity: float, *, article: bool = False) -> list[str]:
    """Draw an opinion: [negator] [article] [intensifier] word."""
    negated = rng.random() < NEGATED
    pair = rng.choices(PAIRS, _FREQUENCIES)[0]
    fits = rng.random() < p_fitting(pair.weight, clarity)
    word = pair.good if fits == (positive != negated) else pair.bad
    intensifier = []
    if rng.random() < 0.3:
        drawn = rng.choice(INTENSIFIERS)
        intensifier = [_stretched(rng, drawn) if rng.random() < 2 * _STRETCH else drawn]
    if rng.random() < _SHOUT:
        word = word.upper()
    phrase = [*intensifier, word]
    if article:
        phrase = ["a", *phrase]
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
