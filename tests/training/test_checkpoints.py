"""The file of a training: when it is written, what makes it void, and what becomes of it when the disk is full."""

import errno
import logging
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import cut_off as cut
import pytest
import torch
import torch.nn.functional as F
from fits import fit
from torch import Tensor, nn

from embedline.training import batches
from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress

pytestmark = pytest.mark.usefixtures("few_records")


def test_a_checkpoint_is_due_when_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, folder, saved = [100.0], tmp_path / "deep" / "folder", list[int]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with checkpoints.checkpointing(folder, 60.0):
        checkpoint = checkpoints.current("member0")
    assert checkpoint is not None
    now[0] = 150.0
    assert checkpoint.load({}) is None  # the training begins here
    for now[0], due in ((150.0, False), (209.0, False), (210.0, True)):
        assert checkpoint.due() is due
    checkpoint.save({"step": 1}, {"seed": 3})
    assert not checkpoint.due()
    assert checkpoint.load({"seed": 3}) == {"step": 1}
    assert cut.files_in(folder) == ["member0.pt"]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        now[0] += 1.0  # a second a step
        return F.mse_loss(output, target)

    save = checkpoints.Checkpoint.save
    monkeypatch.setattr(checkpoints.Checkpoint, "save", lambda *given: (saved.append(given[1]["step"]), save(*given)))
    with checkpoints.checkpointing(tmp_path, 5.0):
        cut.train_one(0, cut.make_options(), loss=loss)
    assert saved == [5, 10, 15, 18]


def test_the_innermost_keeper_counts_and_none_is_left_behind(tmp_path: Path) -> None:
    assert checkpoints.current("member0") is None
    with checkpoints.checkpointing(tmp_path / "outer", 1.0):
        with pytest.raises(cut.Killed), checkpoints.checkpointing(tmp_path / "inner", 2.0):
            inner = checkpoints.current("member0")
            raise cut.Killed
        outer = checkpoints.current("member1")
    assert inner is not None and outer is not None
    assert (inner.path, inner.every) == (tmp_path / "inner" / "member0.pt", 2.0)
    assert (outer.path, outer.every) == (tmp_path / "outer" / "member1.pt", 1.0)
    assert checkpoints.current("member0") is None
    assert cut.files_in(tmp_path) == []


@pytest.mark.parametrize("every", [-1.0, float("nan")])
def test_impossible_paces_are_refused(every: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must be 0 or more, got {every}"), checkpoints.checkpointing(tmp_path, every):
        pass


def test_without_a_keeper_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody keeps checkpoints")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    for ours, theirs in zip(cut.train_both(cut.make_options()), cut.uncut(), strict=True):
        cut.assert_same(ours, theirs)
    assert cut.files_in(tmp_path) == []


def test_going_on_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Line(nn.Module):  # without batch-norm: batches of one row can train it
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 1)

        def forward(self, _: Tensor, values: Tensor) -> Tensor:
            return self.line(values).squeeze(-1)

    def train() -> None:
        options = cut.make_options(batch_size=1, epochs=2)
        cut.train_one(0, options, tensors=cut.make_data(1003), evaluate=None, network=Line())

    with caplog.at_level(logging.INFO), checkpoints.checkpointing(tmp_path, 3600.0):
        with progress.listening(cut.raise_at(3)), pytest.raises(cut.Killed):
            train()
        assert caplog.messages == []
        train()
    assert caplog.messages == ["Going on at step 1,003 of 2,006 of member0 from its checkpoint"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    weights = torch.load(path, weights_only=True)["state"]["network"]["body.1.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weights)] ^= 1
    path.write_bytes(content)


NOT_PLAIN = {"format": checkpoints.FORMAT, "identity": Path("/"), "state": {}}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "BadZipFile: "),
        (_flip, "is damaged"),
        (lambda path: path.write_bytes(b""), "BadZipFile: "),
        (lambda path: torch.save(NOT_PLAIN, path), "UnpicklingError: "),
        (lambda path: torch.save([1, 2], path), "ValueError: its format is not 'embedline-checkpoint-1'"),
        (lambda path: torch.save({"format": "embedline-checkpoint-0"}, path), "ValueError: its format is not"),
    ],
    ids=["truncated", "a flipped bit", "empty", "not plain", "another kind", "another format"],
)
def test_an_unreadable_checkpoint_is_ignored_with_a_warning(damage, reason, tmp_path, caplog, n_steps) -> None:
    path = cut.interrupted(tmp_path)
    damage(path)
    warning = _trains_from_the_start(tmp_path, caplog, n_steps)
    assert str(path) in warning and reason in warning and "starts over" in warning
    assert cut.step_of(path) == cut.LAST  # and replaced


def _trains_from_the_start(folder: Path, caplog: pytest.LogCaptureFixture, n_steps: list[int]) -> str:
    """Train where there is a checkpoint that cannot be taken; the one warning about it."""
    n_steps.clear()
    cut.assert_ends_as_uncut(folder)
    assert len(n_steps) == cut.LAST
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return warning


@pytest.mark.parametrize(
    ("there", "differences"),
    [
        ({"lr": 0.02}, ["options.lr is 0.02 there and 0.01 here."]),
        ({"averaging": None}, ["options.averaging is None there and {'decay': 0.9} here."]),
        ({"precision": "bf16"}, ["precision is bf16 there", "options.precision is bf16 there and fp32 here."]),
        (
            {"epochs": 4, "weight_decay": 0.5, "eps": 0.5, "threads": 2},
            ["n_steps is 24 there", "options.weight_decay is 0.5 there", "options.eps is 0.5 there", "2 more."],
        ),
    ],
)
def test_a_checkpoint_of_other_options_is_ignored_with_a_warning(there, differences, tmp_path, caplog, n_steps) -> None:
    with checkpoints.checkpointing(tmp_path, 0.0):
        cut.train_one(0, cut.make_options(**there))
    warning = _trains_from_the_start(tmp_path, caplog, n_steps)
    assert str(tmp_path / "member0.pt") in warning and "starts over" in warning
    assert [each for each in differences if each not in warning] == []
    assert warning.count(" there and ") == len(differences) - ("2 more." in differences)


def test_so_is_one_of_another_network_or_other_rows_or_another_seed(tmp_path, caplog) -> None:
    path = cut.interrupted(tmp_path)
    with checkpoints.checkpointing(tmp_path, 3600.0):
        cut.train_one(0, cut.make_options(), network=cut.make_net(3, width=8), tensors=cut.make_data(44))
        shutil.move(path, tmp_path / "member1.pt")
        cut.train_one(1, cut.make_options())
    rows, shape = "n_rows is 45 there and 44 here", "shape of body.1.weight is [16, 7] there and [8, 7] here"
    assert rows in caplog.messages[0] and shape in caplog.messages[0]
    assert "seed is 3 there and 4 here" in caplog.messages[1]


def _assert_only_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Train where no checkpoint can be written."""
    with checkpoints.checkpointing(folder, 0.0):
        cut.assert_same(cut.train_one(0, cut.make_options()), cut.uncut()[0])
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(folder / "member0.pt") in warning and "cannot be written ([Errno " in warning


@pytest.mark.parametrize("reason", ["full", "cut short"])
def test_a_full_disk_only_warns(reason, tmp_path, monkeypatch, caplog) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = cut.interrupted(tmp_path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    if reason == "full":
        monkeypatch.setattr(os, "replace", full)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # Python ignores the signal
    try:
        _assert_only_warns(tmp_path, caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and cut.files_in(tmp_path) == ["member0.pt"]
    assert (os.strerror(errno.ENOSPC) in caplog.text) is (reason == "full")


def test_a_folder_that_cannot_be_made_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    _assert_only_warns(tmp_path / "file" / "folder", caplog)
    assert len(caplog.messages) == 1


def test_time_and_speed_are_carried_over(tmp_path: Path) -> None:
    path = cut.interrupted(tmp_path)
    kept = torch.load(path, weights_only=True)
    assert 0.0 < kept["state"]["seconds"] < 60.0
    kept["state"].update(seconds=1000.0, timed={"steps": 400, "seconds": 50.0})
    torch.save(kept, path)
    with checkpoints.checkpointing(tmp_path, 3600.0):
        kept = checkpoints.current("member0")
        fitted = fit(cut.make_net(3), cut.make_data(), cut.make_options(), seed=3, checkpoint=kept)
    assert 1000.0 < fitted.seconds < 1060.0
    assert fitted.rows_per_second == pytest.approx(400 * 7.5 / 50.0)  # the ten steps of this process are its first
    assert torch.load(path, weights_only=True)["state"]["seconds"] > 1000.0


def test_checkpoints_take_no_steps_from_the_time_of_steps(tmp_path: Path) -> None:
    with checkpoints.checkpointing(tmp_path, 0.0):
        cut.train_one(0, cut.make_options())
    timed = torch.load(tmp_path / "member0.pt", weights_only=True)["state"]["timed"]
    assert timed["steps"] == cut.LAST - batches.UNTIMED_STEPS
    assert timed["seconds"] > 0.0


def test_the_stopwatch_counts_steps_and_nothing_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = batches.Throughput(steps=5, seconds=2.0, warm=20)
    watch.start(15)
    for now[0], step in ((4.0, 18), (4.0, 30)):  # before it is warm, and while it stands still
        watch.stop(step)
        assert (watch.steps, watch.seconds) == (5, 2.0)
    watch.start(20)
    for now[0], step in ((7.0, 26), (100.0, 27)):
        watch.stop(step)
        assert (watch.steps, watch.seconds) == (11, 5.0)
