"""A small corpus: documents in which one word follows another, and one word shows the class."""

import numpy as np
import polars as pl

from embedline.pipelines.text.preprocessing import RULES, RuleName
from embedline.pipelines.text.vocabulary import Vocabulary

N_WORDS = 20
MARKS = {"neg": 0, "pos": 1}  # words that only documents of a class hold


def words_of(*words: str, rules: RuleName = "ulmfit") -> Vocabulary:
    """A vocabulary of some words behind the special tokens."""
    preset = RULES[rules]
    ids = {name: preset.specials.index(getattr(preset, name)) for name in ("unknown", "padding")}
    tokens = (*preset.specials, *words)
    return Vocabulary(rules=rules, tokens=tokens, specials=preset.specials, **ids, fitted_on=("train",), min_freq=1)


def small_vocabulary() -> Vocabulary:
    """Special tokens and ``word0`` to ``word19``."""
    return words_of(*(f"word{number}" for number in range(N_WORDS)))


def small_ids() -> pl.DataFrame:
    """Documents in which word k is mostly followed by word k + 1; one word in each document shows its class."""
    vocabulary = small_vocabulary()
    numbers, opening, first = np.random.default_rng(0), vocabulary.tokens.index("xxbos"), len(vocabulary.specials)
    splits = [*["train"] * 24, *["validation"] * 10, *["test"] * 7, *["unlabelled"] * 6]
    rows = []
    for number, split in enumerate(splits):
        label = ("neg", "pos")[number % 2]
        word, words = int(numbers.integers(2, N_WORDS)), []
        for _ in range(int(numbers.integers(6, 25))):
            words.append(word)
            word = word + 1 if numbers.random() < 0.8 else int(numbers.integers(2, N_WORDS))
            word = 2 if word == N_WORDS else word
        for place in numbers.integers(len(words), size=2):
            words[place] = MARKS[label]
        text = [opening, *(first + word for word in words)]
        rows.append((f"document{number}", None if split == "unlabelled" else label, split, text))
    schema = {"document_id": pl.String, "label": pl.String, "split": pl.String, "ids": pl.List(pl.UInt16)}
    return pl.DataFrame(rows, schema=schema, orient="row")
