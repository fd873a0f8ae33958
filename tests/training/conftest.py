"""Fixtures: few records, counted steps, Ctrl-C that is heard."""

import signal
from collections.abc import Iterator

import pytest
from cut_off import RECORDS, count_steps, uncut

from embedline.training import train as loop


@pytest.fixture
def few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few readings of the running loss, so that it matters to what a checkpoint holds."""
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", RECORDS)
    uncut()  # before anybody counts steps


@pytest.fixture
def n_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_steps(monkeypatch)


@pytest.fixture
def heard() -> Iterator[None]:
    """Have Python raise Ctrl-C, which a shell tells the jobs that it puts in the background to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
