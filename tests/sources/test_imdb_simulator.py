"""Simulated reviews: their layout, their irregularities, their true effects and the Bayes classifier's accuracy."""

import hashlib
import math
import re
from collections import Counter

import pytest

from embedline.pipelines.imdb.corpus import read_documents
from embedline.pipelines.imdb.nodes import acquire
from embedline.pipelines.imdb.options import DocumentOptions
from embedline.pipelines.imdb.simulator import (
    INTENSIFIERS,
    NEGATED,
    NEGATORS,
    PAIRS,
    GeneratorOptions,
    certainty,
    generate_files,
    log_odds,
    p_fitting,
)

OPTIONS = GeneratorOptions()
WORDS = re.compile(r"[^\W\d_]+")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return generate_files(OPTIONS)


@pytest.fixture(scope="module")
def texts(files: dict[str, bytes]) -> dict[str, str]:
    return {name: content.decode() for name, content in files.items()}


def test_the_layout_is_the_real_one(files: dict[str, bytes]) -> None:
    folders = Counter(name.rsplit("/", 1)[0] for name in files)
    assert folders == {
        **{"aclImdb/train/pos": 400, "aclImdb/train/neg": 400, "aclImdb/train/unsup": 800},
        **{"aclImdb/test/pos": 200, "aclImdb/test/neg": 200},
    }
    for name in files:
        label, file = name.split("/")[2:]
        low, high = {"pos": (7, 10), "neg": (1, 4), "unsup": (0, 0)}[label]
        match = re.fullmatch(r"(\d+)_(\d+)\.txt", file)
        assert match and low <= int(match[2]) <= high, name
    documents = read_documents(acquire("generated", verify=True, generator=OPTIONS), DocumentOptions())
    assert documents["split"].value_counts(sort=True).rows() == [("train", 800), ("unlabelled", 800), ("test", 400)]


def test_equal_options_give_equal_bytes_and_each_folder_has_its_own_generator(files: dict[str, bytes]) -> None:
    assert generate_files(GeneratorOptions()) == files
    more = generate_files(GeneratorOptions(n_train=802, n_test=401, n_unlabelled=0))
    assert {name: files[name] for name in files if "unsup" not in name}.items() <= more.items()
    assert len(more) == 1203
    other = generate_files(GeneratorOptions(seed=1))
    assert len(set(files.values()) & set(other.values())) == 0 and len(set(files.values())) == len(files)
    digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    assert digest[:16] == "d17a151d71a44b6e", "the generated reviews have changed: so will every result on them"


def test_lengths_words_and_irregularities(texts: dict[str, str]) -> None:
    lengths = [len(text.split()) for text in texts.values()]
    assert min(lengths) == 20 and max(lengths) == 120 and 60 < sum(lengths) / len(lengths) < 70
    counts = Counter(word.lower() for text in texts.values() for word in WORDS.findall(text))
    assert 400 <= len(counts) <= 800
    assert sum(count < 3 for count in counts.values()) > 20
    everything = "\n".join(texts.values())
    for quirk in ("<br /><br />", "&amp;", "&quot;", "&#39;", "!!!!!", "?!", "sooooo", "café", " 1000 "):
        assert quirk in everything, quirk
    shouted = Counter(re.findall(r"\b[A-Z]{4,}\b", everything))
    assert shouted["GOOD"] > 5 and shouted["TERRIBLE"] > 0
    assert not re.search(r"\ba [aeio]|  | ,|\{|\}", everything)
    lengths = [len(text.split()) for text in _texts(GeneratorOptions(min_words=1, max_words=40))]
    assert max(lengths) <= 40 and min(lengths) < 15


def test_log_odds_computed_by_hand() -> None:
    weight = {word: pair.weight for pair in PAIRS for word in (pair.good, pair.bad)}
    assert (weight["good"], weight["great"], weight["dull"]) == (1.8, 2.8, 0.6)
    assert log_odds("It is a GOOD film!!! The ring was dull.") == pytest.approx(1.8 - 0.6)
    assert log_odds("It was not good.") == log_odds("It was NOT sooooo GOOD") == log_odds("never a very good") == -1.8
    assert log_odds("Hardly a really dull") == pytest.approx(0.6)
    assert log_odds("I did not say. Good film.") == log_odds("not, good") == log_odds("not<br /><br />good") == 1.8
    assert log_odds("The plot goodness.") == 0.0
    assert log_odds("good dull", clarity=2.0) == pytest.approx(2 * (1.8 - 0.6))
    assert certainty(0.0) == 0.5 and certainty(-2.0) == certainty(2.0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert p_fitting(1.8, 0.0) == 0.5


def test_the_reviews_follow_the_probabilities() -> None:
    """Frequencies of words and of negation by sentiment, over 10,000 reviews, within 4 standard errors."""
    seen: Counter[tuple[str, str]] = Counter()
    negated = opinions = 0
    sides = {pair.good: 1 for pair in PAIRS} | {pair.bad: -1 for pair in PAIRS}
    between = rf"(?:(?:an?|{'|'.join(INTENSIFIERS)}) )*"
    opinion = re.compile(rf"(?:\b({'|'.join(NEGATORS)}) )?{between}\b({'|'.join(sides)})\b")
    generated = generate_files(GeneratorOptions(n_train=10_000, n_test=2, n_unlabelled=0))
    for name, content in generated.items():
        plain = re.sub(r"(.)\1{2,}", r"\1", content.decode().lower())
        for negator, word in opinion.findall(plain):
            opinions, negated = opinions + 1, negated + bool(negator)
            label = name.split("/")[2]
            seen[word, label if not negator else {"pos": "neg", "neg": "pos"}[label]] += 1
    assert opinions > 40_000
    assert abs(negated / opinions - NEGATED) < 4 * math.sqrt(NEGATED * (1 - NEGATED) / opinions)
    for pair in PAIRS:
        fitting = seen[pair.good, "pos"] + seen[pair.bad, "neg"]
        total = fitting + seen[pair.good, "neg"] + seen[pair.bad, "pos"]
        p = 1 / (1 + math.exp(-pair.weight))
        assert abs(fitting / total - p) < 4 * math.sqrt(p * (1 - p) / total), pair


def _texts(options: GeneratorOptions) -> list[str]:
    return [content.decode() for content in generate_files(options).values()]
