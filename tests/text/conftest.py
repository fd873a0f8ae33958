"""Fixtures: a small corpus and small networks, interrupted trainings; each test starts from the same random state."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import torch
from small_corpus import small_ids, small_vocabulary

if TYPE_CHECKING:
    from embedline.pipelines.text.vocabulary import Vocabulary
    from embedline.training.model_file import ModelBundle

Cut = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def vocabulary() -> "Vocabulary":
    """Special tokens and ``word0`` to ``word19``."""
    return small_vocabulary()


@pytest.fixture(scope="session")
def ids() -> pl.DataFrame:
    """Documents in which word k is mostly followed by word k + 1; one word in each document shows its class."""
    return small_ids()


@pytest.fixture(scope="session")
def language_model(ids: pl.DataFrame, vocabulary: "Vocabulary") -> "ModelBundle":
    """Bundle of a language model, trained for one epoch."""
    from embedline.pipelines.text.language_model import train_language_model
    from embedline.pipelines.text.options import LanguageModelOptions, LanguageModelTraining
    from embedline.pipelines.text.tokenizer import TokenOptions

    network = LanguageModelOptions(embedding_size=6, hidden_size=9, n_layers=2)
    training = LanguageModelTraining(
        batch_size=4, epochs=1, lr=0.01, bptt=10, device="cpu", precision="fp32", threads=1
    )
    return train_language_model(ids, vocabulary, TokenOptions(workers=1), network, training)[0]


class Killed(BaseException):
    """Replaces a signal that ends a training."""


@pytest.fixture
def checkpoint_folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def cut_off_after(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Function that makes a ``with`` block in which the training is killed after so many reports of its metrics.

    There are four records of a training, so that the running loss matters to what a checkpoint holds.
    """
    from embedline.training import checkpoint as checkpoints
    from embedline.training import metrics as progress
    from embedline.training import train as loop

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
            checkpoints.checkpointing(checkpoint_folder, 3600.0),
            pytest.raises(Killed),
        ):
            yield

    return cutting


@pytest.fixture
def n_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with one entry for each optimiser step."""
    from embedline.training import train as loop

    steps: list[int] = []
    real = loop.optimizer_step

    def count(*arguments: Any) -> None:
        steps.append(1)
        real(*arguments)

    monkeypatch.setattr(loop, "optimizer_step", count)
    return steps
