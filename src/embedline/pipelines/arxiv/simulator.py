r"""Simulated papers in the layout of arXiv's metadata snapshot, for runs and tests without the real one.

A line a paper, with the snapshot's keys in their order (``id``, ``submitter``, … ``authors_parsed``) and its
irregularities: titles and abstracts broken at 78 columns, the next line of a title behind two spaces, an abstract
between two spaces and a line break, two spaces after some sentences, TeX (``$O(n \log n)$``, ``K\"ahler``), missing
values, categories of a second archive behind the primary one (``cs.NI math.CO``).

The words follow the true effects below: results on them say nothing about real papers.

1. A paper has a primary category, each of `CATEGORIES` as probable as another, and with probability `CROSS` a second
   one, which changes nothing else.
2. Templates with places for topic words (`TOPICS`) and for common words make up title and abstract. A topic word is
   drawn from the primary category's with probability `OWN`, else from those of a category drawn at random, the first
   words of a topic more often than the last: the primary category has 0.92
   of all topic words.
3. A topic noun of the abstract repeats one of the title's with probability `SHARED`.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from random import Random
from typing import Any, Self

from pydantic import Field, model_validator

from embedline.training.options import Options

OWN = 0.9
"""Probability that a topic word is drawn from the primary category, before it may be drawn from any."""

SHARED = 0.5
"""Probability that a topic noun of the abstract is one of the title's."""

CROSS = 0.15
"""Probability of a second category."""

WIDTH = 78  # columns of a line

_WORDS = {  # nouns, whose plural ends in s; adjectives; the most frequent first
    "cs.NI": ("router packet protocol antenna gateway channel", "wireless congested mobile"),
    "cs.LG": ("classifier gradient kernel dataset learner label", "supervised deep adversarial"),
    "stat.ML": ("estimator prior posterior sampler regressor quantile", "bayesian gaussian unbiased"),
    "math.CO": ("graph matroid lattice clique poset partition", "planar bipartite chromatic"),
    "astro-ph.CO": ("nebula halo quasar pulsar telescope supernova", "dark cosmic luminous"),
}
TOPICS: dict[str, dict[str, list[str]]] = {
    category: dict(zip(("{noun}", "{adjective}"), map(str.split, lists), strict=True))
    for category, lists in _WORDS.items()
}
CATEGORIES = (*TOPICS,)

# None of the words and sentences that follow depends on the category.
COMMON: dict[str, list[str]] = {
    "{method}": "method approach model theory framework analysis scheme bound theorem".split(),
    "{quality}": "simple new general robust efficient exact optimal".split(),
    "{property}": "structure complexity stability existence behaviour size growth".split(),
    "{show}": "show prove find argue demonstrate".split(),
    "{study}": "study consider propose present introduce investigate".split(),
    "{result}": "results experiments simulations proofs measurements".split(),
    "{symbol}": ["$n$", "$k$", r"$\epsilon$", r"$O(n \log n)$", r"$\sqrt{n}$", "$10^{-3}$"],
    "{name}": ["Gauss", "Markov", r"Erd\H{o}s", r"K\"ahler", r"Poincar\'e", "Fourier", r"Schr\"odinger"],
}
TITLES = [
    line.split()
    for line in r"""
a {quality} {method} for {adjective} {noun}s
on {adjective} {noun}s and {adjective} {noun}s
{adjective} {noun}s and {noun}s
algorithms that find {adjective} {noun}s
the {name} {method} for {noun}s and {adjective} {noun}s
{noun}s with {adjective} {noun}s : a {quality} {method}
the {property} of a {adjective} {noun} in {adjective} {noun}s
a {quality} {method} for the {property} of {adjective} {noun}s with {adjective} {noun}s and {noun}s
{adjective} {noun}s : on the {property} of a {adjective} {noun} with {noun}s and {adjective} {noun}s
""".strip().splitlines()
]
SENTENCES = [
    line.split()
    for line in r"""
we {study} a {method} for {adjective} {noun}s and {noun}s
we {show} that {adjective} {noun}s and {adjective} {noun}s have {symbol} {noun}s
the {adjective} {noun} of {name} is {quality}
for {adjective} {noun}s the {property} of a {noun} is {quality}
our {result} {show} that a {noun} with {adjective} {noun}s is {quality}
it needs {symbol} {noun}s and a {adjective} {noun}
each {adjective} {noun} is a {noun} with {adjective} {noun}s
{adjective} {noun}s are {quality} , and so are {noun}s and {noun}s
""".strip().splitlines()
]
_FREQUENCIES = [1.0 / rank for rank in range(1, 7)]  # of a topic's words, not normalised
_AUTHORS = "Barrel Corvik Delmond Fenstad Garwin Holberg Jorbière Kelnik Linsson Marley Norvin Peldale".split()


class GeneratorOptions(Options):
    """Number and length of the simulated papers."""

    n_papers: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)
    min_words: int = Field(default=1, ge=1, description="words of the shortest abstract, but for its last sentence")
    max_words: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _lengths_in_order(self) -> Self:
        if self.max_words < self.min_words:
            raise ValueError(f"max_words must be min_words or more, got {self.min_words} and {self.max_words}")
        return self


def generate_snapshot(options: GeneratorOptions) -> bytes:
    """Simulate the snapshot: JSON lines in ASCII; equal options give equal bytes.

    Each paper has its own random generator: more papers do not change the first ones.
    """
    papers = (_paper(Random(f"{options.seed}/{number}"), number, options) for number in range(options.n_papers))
    return b"".join(json.dumps(paper).encode() + b"\n" for paper in papers)


def _paper(rng: Random, number: int, options: GeneratorOptions) -> dict[str, Any]:
    month, place = divmod(number, 40)  # 40 papers a month from April 2007 on, when arXiv's numbers got this form
    year, month = 2007 + (month + 3) // 12, (month + 3) % 12 + 1
    primary = rng.choice(CATEGORIES)
    categories = [primary]
    if rng.random() < CROSS:
        categories.append(rng.choice([name for name in CATEGORIES if name != primary]))
    title, nouns = _fill(rng, rng.choice(TITLES), primary, [])
    authors = rng.sample(_AUTHORS, rng.randint(1, 3))
    day = datetime(year, month, rng.randint(1, 28), 12, tzinfo=UTC)
    return {
        "id": f"{year % 100:02}{month:02}.{place + 1:04}",
        "submitter": f"A. {authors[0]}",
        "authors": ", ".join(f"A. {author}" for author in authors),
        "title": textwrap.fill(_capitalised(title), WIDTH, subsequent_indent="  ", break_on_hyphens=False),
        "comments": f"{rng.randint(4, 40)} pages" if rng.random() < 0.6 else None,
        "journal-ref": None,
        "doi": None,
        "report-no": None,
        "categories": " ".join(categories),
        "license": None,
        "abstract": _abstract(rng, primary, nouns, options),
        "versions": [{"version": "v1", "created": format_datetime(day, usegmt=True)}],
        "update_date": f"{day:%Y-%m-%d}",
        "authors_parsed": [[author, "A.", ""] for author in authors],
    }


def _abstract(rng: Random, primary: str, nouns: list[str], options: GeneratorOptions) -> str:
    target = rng.randint(options.min_words, options.max_words)
    lines, words = ["  "], 0
    while words < target:
        sentence, _ = _fill(rng, rng.choice(SENTENCES), primary, nouns)
        words += len(sentence.split())
        # White space by hand: textwrap would take the two spaces between sentences for one at the ends of lines only.
        for piece in f"{_capitalised(sentence)}.".split(" "):
            if len(lines[-1]) + len(piece) >= WIDTH:
                lines.append(piece)
            else:
                lines[-1] += f" {piece}" if lines[-1].strip() else piece
        if rng.random() < 0.2:
            lines[-1] += " "
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _fill(rng: Random, template: Iterable[str], primary: str, given: list[str]) -> tuple[str, list[str]]:
    """Fill the places of a template, and return the text and its topic nouns; some of the nouns are ``given``."""
    words, nouns = [], []
    for token in template:
        place = re.match(r"\{\w+\}", token)
        if place is None:
            words.append(token)
            continue
        kind = place[0]
        if kind in COMMON:
            word = rng.choice(COMMON[kind])
        elif kind == "{noun}" and given and rng.random() < SHARED:
            word = rng.choice(given)
        else:
            category = primary if rng.random() < OWN else rng.choice(CATEGORIES)
            words_of_topic = TOPICS[category][kind]
            word = rng.choices(words_of_topic, _FREQUENCIES[: len(words_of_topic)])[0]
        if kind == "{noun}":
            nouns.append(word)
        words.append(word + token.removeprefix(kind))
    for number, word in enumerate(words[1:], start=1):
        if words[number - 1] == "a" and word[0] in "aeio":
            words[number - 1] = "an"
    return " ".join(words).replace(" :", ":").replace(" ,", ","), nouns


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
