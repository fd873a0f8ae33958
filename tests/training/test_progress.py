"""A line a minute in a log that is no terminal: what it says, when, and that it changes nothing."""

import io
import itertools
import logging
import re
import sys

import pytest
from fits import fit, noise, plain_options, seeded, values_of
from small_trainings import train_words
from torch import nn

from embedline.pipelines.text import language_model
from embedline.training import progress
from embedline.training import train as loop
from embedline.training.progress import Progress
from embedline.training.train import FitResult

VALUES, TARGET = noise(20)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Standard error is a file, and a clock goes on by 20 seconds each time that it is read."""
    ticks = itertools.count(0.0, 20.0)
    monkeypatch.setattr(progress, "clock", lambda: next(ticks))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, progress.__name__)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def trained() -> FitResult:
    """Eight steps of five rows."""
    network = seeded(lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)))
    return fit(network, (VALUES, TARGET), plain_options(epochs=2, batch_size=5), label="member1.")


def test_a_line_a_minute_says_how_far_a_training_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losses = values_of(trained().history, "train_loss")
    caplog.clear()
    monkeypatch.setattr(loop, "RECORDS_PER_TRAINING", 1)  # at the ends of the epochs only
    trained()
    first, second = lines_of(caplog)
    # After three steps of 20 seconds: 15 rows in 60 seconds, and five steps are left.
    assert first.startswith("training member1: step 3 of 8, epoch 1 of 2, ")
    assert f"loss {sum(losses[:3]) / 3:.4f}, rate " in first
    assert first.endswith(", 0.25 rows/s, 2 min left")
    assert second.startswith("training member1: step 6 of 8, epoch 2 of 2, ")
    assert f"loss {sum(losses[4:6]) / 2:.4f}, " in second  # since the record of step 4
    assert second.endswith(", 40 s left")


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, True)])
def test_nothing_is_logged_on_a_terminal_or_by_other_processes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, terminal: bool, quiet: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    lines = Progress("work", 100, "step", quiet=quiet)
    for step in range(10):
        lines.update(step)
    assert lines_of(caplog) == []


def test_the_time_left_goes_by_the_steps_of_this_run(caplog: pytest.LogCaptureFixture) -> None:
    lines = Progress("work", 1000, "step", done=900)
    for step in (900, 901, 903, 905, 906, 910):
        lines.update(step, lambda speed: f"{speed:.3f} a second")
    # 3 steps in the first 60 seconds leave 97 of 20 seconds each; then 7 in 60, 10 in 120 altogether.
    assert lines_of(caplog) == [
        "work: step 903 of 1,000, 0.050 a second, 32 min left",
        "work: step 910 of 1,000, 0.117 a second, 18 min left",
    ]


def test_a_training_of_words_counts_tokens_and_its_long_evaluation_has_lines_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(language_model, "EVALUATION_ROWS", 1)
    monkeypatch.setattr(language_model, "EVALUATION_TOKENS", 5)
    train_words(epochs=1)
    found = lines_of(caplog)
    assert any("training language_model: step " in line and " tokens/s, " in line for line in found)
    assert any(re.match(r"evaluation of the language model: token 10 of \d+, .* left$", line) for line in found), found
