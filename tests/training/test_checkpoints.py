"""The file of a training: when it is written, what makes it void, and what becomes of it when the disk is full."""

import errno
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cut_off import (
    LAST,
    Killed,
    assert_same,
    files_in,
    interrupted,
    make_data,
    make_net,
    make_options,
    raise_at,
    step_of,
    train_both,
    train_one,
    uncut,
)
from torch import Tensor, nn

from embedline.training import batches
from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import train as loop
from embedline.training.device import make_accelerator

pytestmark = pytest.mark.usefixtures("few_records")


def test_a_checkpoint_is_due_when_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with checkpoints.checkpointing(tmp_path / "deep" / "folder", 60.0):
        checkpoint = checkpoints.current("member0")
    assert checkpoint is not None
    now[0] = 150.0
    assert checkpoint.load({}) is None  # the training begins here
    assert not checkpoint.due()
    now[0] = 209.0
    assert not checkpoint.due()
    now[0] = 210.0
    assert checkpoint.due()
    checkpoint.save({"step": 1}, {"seed": 3})
    assert not checkpoint.due()
    assert checkpoint.load({"seed": 3}) == {"step": 1}
    assert files_in(tmp_path / "deep" / "folder") == ["member0.pt"]


def test_saving_happens_at_that_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = [0.0], list[int]()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        now[0] += 1.0  # a second a step
        return F.mse_loss(output, target)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    real_save = checkpoints.Checkpoint.save

    def save(self: checkpoints.Checkpoint, kept: checkpoints.State, identity: checkpoints.Fingerprint) -> None:
        saved.append(kept["step"])
        real_save(self, kept, identity)

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
    with checkpoints.checkpointing(tmp_path, 5.0):
        train_one(0, make_options(), loss=loss)
    assert saved == [5, 10, 15, 18]


def test_the_innermost_keeper_counts_and_none_is_left_behind(tmp_path: Path) -> None:
    assert checkpoints.current("member0") is None
    with checkpoints.checkpointing(tmp_path / "outer", 1.0):
        with pytest.raises(Killed), checkpoints.checkpointing(tmp_path / "inner", 2.0):
            inner = checkpoints.current("member0")
            raise Killed
        outer = checkpoints.current("member1")
    assert inner is not None and outer is not None
    assert (inner.path, inner.every) == (tmp_path / "inner" / "member0.pt", 2.0)
    assert (outer.path, outer.every) == (tmp_path / "outer" / "member1.pt", 1.0)
    assert checkpoints.current("member0") is None
    assert files_in(tmp_path) == []


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
    for ours, theirs in zip(train_both(make_options()), uncut(), strict=True):
        assert_same(ours, theirs)
    assert files_in(tmp_path) == []


def test_going_on_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, options = make_data(1003), make_options(batch_size=1, epochs=2)
    with caplog.at_level(logging.INFO), checkpoints.checkpointing(tmp_path, 3600.0):
        with progress.listening(raise_at(3)), pytest.raises(Killed):
            train_one(0, options, tensors=data, evaluate=None, network=_NoNorm())
        assert caplog.messages == []
        train_one(0, options, tensors=data, evaluate=None, network=_NoNorm())
    assert caplog.messages == ["Going on at step 1,003 of 2,006 of member0 from its checkpoint"]


class _NoNorm(nn.Module):
    """A line, which batches of one row can train."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, _: Tensor, values: Tensor) -> Tensor:
        return self.line(values).squeeze(-1)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    weights = torch.load(path, weights_only=True)["state"]["network"]["body.1.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weights)] ^= 1
    path.write_bytes(content)


def _pickle(path: Path) -> None:
    torch.save({"format": checkpoints.FORMAT, "identity": Path("/"), "state": {}}, path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "BadZipFile: "),
        (_flip, "is damaged"),
        (lambda path: path.write_bytes(b""), "BadZipFile: "),
        (_pickle, "UnpicklingError: "),
        (lambda path: torch.save([1, 2], path), "ValueError: its format is not 'embedline-checkpoint-1'"),
        (lambda path: torch.save({"format": "embedline-checkpoint-0"}, path), "ValueError: its format is not"),
    ],
    ids=["truncated", "a flipped bit", "empty", "not plain", "another kind", "another format"],
)
def test_an_unreadable_checkpoint_is_ignored_with_a_warning(
    damage: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, n_steps: list[int]
) -> None:
    path = interrupted(tmp_path)
    damage(path)
    n_steps.clear()
    with checkpoints.checkpointing(tmp_path, 3600.0):
        assert_same(train_one(0, make_options()), uncut()[0])
    assert len(n_steps) == LAST
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith(f"The checkpoint {path} cannot be read (")
    assert reason in warning.getMessage()
    assert warning.getMessage().endswith(": the training starts over")
    assert step_of(path) == LAST  # and replaced


@pytest.mark.parametrize(
    ("there", "difference"),
    [
        ({"lr": 0.02}, "options.lr is 0.02 there and 0.01 here."),
        ({"averaging": None}, "options.averaging is None there and {'decay': 0.9} here."),
        (
            {"precision": "bf16"},
            "precision is bf16 there and fp32 here, options.precision is bf16 there and fp32 here.",
        ),
        (
            {"epochs": 4, "weight_decay": 0.5, "eps": 0.5, "threads": 2},
            "n_steps is 24 there and 18 here, options.weight_decay is 0.5 there and 0.0 here, "
            "options.eps is 0.5 there and 1e-05 here, and 2 more.",
        ),
    ],
)
def test_a_checkpoint_of_other_options_is_ignored_with_a_warning(
    there: dict[str, Any], difference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, n_steps: list[int]
) -> None:
    with checkpoints.checkpointing(tmp_path, 0.0):
        train_one(0, make_options(**there))
    n_steps.clear()
    with checkpoints.checkpointing(tmp_path, 3600.0):
        assert_same(train_one(0, make_options()), uncut()[0])
    assert len(n_steps) == LAST
    (warning,) = caplog.messages
    path = tmp_path / "member0.pt"
    expected = f"The checkpoint {path} was made for another training: {difference} The training starts over"
    assert warning == expected


def test_so_is_one_of_another_network_or_other_rows_or_another_seed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = interrupted(tmp_path)
    with checkpoints.checkpointing(tmp_path, 3600.0):
        train_one(0, make_options(), network=make_net(3, width=8), tensors=make_data(44))
    assert (
        "n_rows is 45 there and 44 here, shape of body.1.weight is [16, 7] there and [8, 7] here" in caplog.messages[0]
    )
    shutil.move(path, tmp_path / "member1.pt")
    with checkpoints.checkpointing(tmp_path, 3600.0):
        train_one(1, make_options())
    assert "seed is 3 there and 4 here" in caplog.messages[1]


def _assert_survives_a_full_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Train on from a checkpoint that cannot be replaced."""
    before = (folder / "member0.pt").read_bytes()
    with checkpoints.checkpointing(folder, 0.0):
        assert_same(train_one(0, make_options()), uncut()[0])
    assert (folder / "member0.pt").read_bytes() == before
    assert files_in(folder) == ["member0.pt"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"The checkpoint {folder / 'member0.pt'} cannot be written ([Errno ")
    assert warning.endswith("): the training goes on without it")


def test_a_full_disk_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    _assert_survives_a_full_disk(tmp_path, caplog)
    assert os.strerror(errno.ENOSPC) in caplog.text


def test_a_write_that_the_system_cuts_short_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = interrupted(tmp_path).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))  # Python ignores the signal: the write fails
    try:
        _assert_survives_a_full_disk(tmp_path, caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_folder_that_cannot_be_made_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with checkpoints.checkpointing(tmp_path / "file" / "folder", 0.0):
        assert_same(train_one(0, make_options()), uncut()[0])
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.messages[0]


def test_time_and_speed_are_carried_over(tmp_path: Path) -> None:
    path = interrupted(tmp_path)
    kept = torch.load(path, weights_only=True)
    assert 0.0 < kept["state"]["seconds"] < 60.0
    kept["state"].update(seconds=1000.0, timed={"steps": 400, "seconds": 50.0})
    torch.save(kept, path)
    options = make_options()
    with checkpoints.checkpointing(tmp_path, 3600.0):
        fitted = loop.fit(
            make_net(3),
            make_data(),
            F.mse_loss,
            options,
            accelerator=make_accelerator(options),
            seed=3,
            checkpoint=checkpoints.current("member0"),
        )
    assert 1000.0 < fitted.seconds < 1060.0
    assert fitted.rows_per_second == pytest.approx(400 * 7.5 / 50.0)  # the ten steps of this process are its first
    assert torch.load(path, weights_only=True)["state"]["seconds"] > 1000.0


def test_checkpoints_take_no_steps_from_the_time_of_steps(tmp_path: Path) -> None:
    with checkpoints.checkpointing(tmp_path, 0.0):
        train_one(0, make_options())
    timed = torch.load(tmp_path / "member0.pt", weights_only=True)["state"]["timed"]
    assert timed["steps"] == LAST - batches.UNTIMED_STEPS
    assert timed["seconds"] > 0.0


def test_the_stopwatch_counts_steps_and_nothing_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = batches.Throughput(steps=5, seconds=2.0, warm=20)
    watch.start(15)
    now[0] = 4.0
    watch.stop(18)  # before it is warm
    watch.stop(30)  # it stands still
    assert (watch.steps, watch.seconds) == (5, 2.0)
    watch.start(20)
    now[0] = 7.0
    watch.stop(26)
    now[0] = 100.0
    watch.stop(27)
    assert (watch.steps, watch.seconds) == (11, 5.0)
