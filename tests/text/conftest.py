"""Tiny texts and networks, and ways to cut a training off; every test starts from the same random numbers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import torch

if TYPE_CHECKING:
    from embedline.text.vocabulary import Vocabulary
    from embedline.training.bundle import ModelBundle

Cut = Callable[[int], AbstractContextManager[None]]

N_WORDS = 20
MARKS = {"neg": 0, "pos": 1}  # words that only documents of a class hold


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # small networks gain nothing from several


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def vocabulary() -> "Vocabulary":
    """Special tokens and ``word0`` to ``word19``."""
    from embedline.text.rules import RULES
    from embedline.text.vocabulary import Vocabulary

    rules = RULES["ulmfit"]
    words = (f"word{number}" for number in range(N_WORDS))
    return Vocabulary(
        rules="ulmfit",
        tokens=(*rules.specials, *words),
        specials=rules.specials,
        unknown=rules.specials.index(rules.unknown),
        padding=rules.specials.index(rules.padding),
        fitted_on=("train",),
        min_freq=1,
    )


@pytest.fixture(scope="session")
def ids(vocabulary: "Vocabulary") -> pl.DataFrame:
    """Documents in which word k is mostly followed by word k + 1; a word of its own tells the class of each."""
    numbers, opening, first = np.random.default_rng(0), vocabulary.tokens.index("xxbos"), len(vocabulary.specials)
    parts = [*["train"] * 24, *["validation"] * 10, *["test"] * 7, *["unlabelled"] * 6]
    rows = []
    for number, part in enumerate(parts):
        label = ("neg", "pos")[number % 2]
        word, words = int(numbers.integers(2, N_WORDS)), []
        for _ in range(int(numbers.integers(6, 25))):
            words.append(word)
            word = word + 1 if numbers.random() < 0.8 else int(numbers.integers(2, N_WORDS))
            word = 2 if word == N_WORDS else word
        for place in numbers.integers(len(words), size=2):
            words[place] = MARKS[label]
        text = [opening, *(first + word for word in words)]
        rows.append((f"document{number}", None if part == "unlabelled" else label, part, text))
    schema = {"document_id": pl.String, "label": pl.String, "part": pl.String, "ids": pl.List(pl.UInt16)}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.fixture(scope="session")
def language_model(ids: pl.DataFrame, vocabulary: "Vocabulary") -> "ModelBundle":
    """Bundle of a language model that has read the documents once."""
    from embedline.text.language_learner import train_language_model
    from embedline.text.options import LanguageModelOptions, LanguageModelTraining
    from embedline.text.tokens import TokenOptions

    network = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
    training = LanguageModelTraining(
        batch_size=4, epochs=1, lr=0.01, bptt=10, device="cpu", precision="fp32", threads=1
    )
    return train_language_model(ids, vocabulary, TokenOptions(workers=1), network, training)[0]


class Killed(BaseException):
    """Stands for whatever ends a training from outside."""


@pytest.fixture
def checkpoint_folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def cut_off_after(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Function that makes a ``with`` block in which the training is killed after so many reports of its figures.

    There are four records of a training, so that the running loss matters to what a checkpoint holds.
    """
    from embedline.training import checkpoints, loop, progress

    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 4)

    @contextmanager
    def cutting(reports: int) -> Iterator[None]:
        heard: list[int] = []

        def listen(*_: Any) -> None:
            heard.append(1)
            if len(heard) == reports:
                raise Killed

        with (
            progress.listening(listen),
            checkpoints.keeping(checkpoint_folder, 3600.0),
            pytest.raises(Killed),
        ):
            yield

    return cutting


@pytest.fixture
def n_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one entry for each optimiser step."""
    from embedline.training import loop

    steps: list[int] = []
    real = loop.descend

    def count(*arguments: Any) -> None:
        steps.append(1)
        real(*arguments)

    monkeypatch.setattr(loop, "descend", count)
    return steps
