"""Fixtures: each test starts from the same random state; trainings that are killed and resumed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import Resume, Trained, assert_same, language_model

from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import train as loop


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Killed(BaseException):
    """Replaces a signal that ends a training."""


@pytest.fixture
def resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resume:
    """Function that kills a training after so many reports of its metrics and resumes it: it ends in the same bits.

    It returns the states in the checkpoints by name, the number of steps of the whole training, and its metrics. There
    are four records of a training, so that the running loss matters to what a checkpoint holds.
    """
    language_model()  # before anybody counts steps
    steps: list[int] = []
    take_step = loop.optimizer_step

    def count(*arguments: Any) -> None:
        steps.append(1)
        take_step(*arguments)

    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 4)
    monkeypatch.setattr(loop, "optimizer_step", count)

    def resume(train: Callable[[], Trained], reports: int) -> tuple[dict[str, Any], int, dict[str, Any]]:
        heard: list[int] = []

        def listen(*_: Any) -> None:
            heard.append(1)
            if len(heard) == reports:
                raise Killed

        whole, total = train(), len(steps)
        with progress.listening(listen), checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(Killed):
            train()
        done = len(steps) - total
        states = {path.stem: torch.load(path, weights_only=True)["state"] for path in sorted(tmp_path.iterdir())}
        with checkpoints.checkpointing(tmp_path, 3600.0):
            resumed = train()
            assert_same(resumed, whole)
            assert resumed[0].metrics.get("best_epoch") == whole[0].metrics.get("best_epoch")
            assert len(steps) == 2 * total, "the steps before the end are not taken again"
            assert_same(train(), whole)
        assert len(steps) == 2 * total, "a training that is over is not repeated"
        assert 0 < done <= total
        assert sum(state["step"] for state in states.values()) == done
        return states, total, whole[0].metrics

    return resume
