"""Members side by side: one that fails, or Ctrl-C, ends them all soon, and what they had done is not lost."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_trainings as small
import torch
import torch.nn.functional as F
from cut_off import files_in, step_of
from fits import noise, plain_options, same, seeded
from torch import Tensor, nn

from embedline.training import checkpoint as checkpoints
from embedline.training import ensemble
from embedline.training import metrics as progress
from embedline.training import train as loop
from embedline.training.batches import Stopped
from embedline.training.device import make_accelerator
from embedline.training.dropout import Dropout, seed_dropout
from embedline.training.ensemble import parallel_seconds, train_parallel, weighted_mean

N_STEPS = 600
PAUSE = 0.02  # seconds a step, where a training is to be caught in the middle
SOON = 8.0  # seconds from the interruption to its exception; the trainings would take 12


def _networks(count: int) -> list[nn.Module]:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), Dropout(0.1), nn.Linear(16, 1), nn.Flatten(0))

    networks = [seeded(network, seed) for seed in range(count)]
    for seed, each in enumerate(networks):
        seed_dropout(each, seed)
    return networks


def _train(count: int, loss_of: Callable[[int], loop.Loss] = lambda member: F.mse_loss) -> list[nn.Module]:
    """Train ``count`` members, two at a time, under whoever keeps checkpoints; their networks."""
    options, tensors = plain_options(epochs=N_STEPS // 4, batch_size=5), noise(20)
    accelerator = make_accelerator(options)

    def train_member(member: int, network: nn.Module, stop: threading.Event) -> loop.FitResult:
        kept = checkpoints.current(f"member{member}")
        more: dict[str, Any] = {"accelerator": accelerator, "seed": member, "checkpoint": kept, "stop": stop}
        return loop.fit(network, tensors, loss_of(member), options, alone=False, **more)

    return [fitted.network for fitted in train_parallel(train_member, _networks(count), workers=2, threads=1)]


class Steps:
    """Losses that take their time, and count."""

    def __init__(self, fail: tuple[int, int] | None = None) -> None:
        self.taken = [0, 0, 0]
        self.fail = fail
        self.failed_at = 0.0

    def loss_of(self, member: int) -> loop.Loss:
        def loss(output: Tensor, target: Tensor) -> Tensor:
            time.sleep(PAUSE)
            if (member, self.taken[member]) == self.fail:
                self.failed_at = time.monotonic()
                raise RuntimeError(f"member {member} fails")
            self.taken[member] += 1
            return F.mse_loss(output, target)

        return loss


def _assert_goes_on_to_the_same(folder: Path) -> None:
    with checkpoints.checkpointing(folder, 3600.0):
        resumed = _train(3)
    whole = _train(3)
    assert len(whole) == 3 and all(map(same, resumed, whole))


@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_all_members_soon_and_nothing_is_lost(tmp_path: Path) -> None:
    steps, sent = Steps(), []

    def interrupt() -> None:
        while min(steps.taken[:2]) < 10:
            time.sleep(0.001)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    signal.siginterrupt(signal.SIGINT, False)  # as Polars has it: the system resumes the waits that Ctrl-C would end
    hand = threading.Thread(target=interrupt)
    hand.start()
    with pytest.raises(KeyboardInterrupt), checkpoints.checkpointing(tmp_path, 3600.0):
        _train(3, steps.loss_of)
    assert time.monotonic() - sent[0] < SOON
    hand.join()
    assert files_in(tmp_path) == ["member0.pt", "member1.pt"]
    reached = [step_of(tmp_path / f"member{member}.pt") for member in (0, 1)]
    assert [*reached, 0] == steps.taken  # every step is kept, and the third member never began
    assert all(10 <= step < N_STEPS for step in reached)
    _assert_goes_on_to_the_same(tmp_path)


def test_a_member_that_fails_ends_the_others_soon(tmp_path: Path) -> None:
    steps = Steps(fail=(1, 8))
    with pytest.raises(RuntimeError, match="member 1 fails"), checkpoints.checkpointing(tmp_path, 3600.0):
        _train(3, steps.loss_of)
    assert 0.0 < time.monotonic() - steps.failed_at < SOON
    assert files_in(tmp_path) == ["member0.pt"]  # the other's last step is half done
    assert step_of(tmp_path / "member0.pt") == steps.taken[0] < N_STEPS // 4
    assert steps.taken[1:] == [8, 0]
    _assert_goes_on_to_the_same(tmp_path)


def test_the_first_failure_is_raised_not_the_stop_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_member(member: int, network: nn.Module, stop: threading.Event) -> loop.FitResult:
        began.append(member)
        if member == 1:
            raise KeyError("mine")
        assert stop.wait(10.0)
        raise Stopped

    monkeypatch.setattr(ensemble, "wait", lambda members, *_: wait(members))  # by then all have ended, in some order
    began: list[int] = []
    since = time.monotonic()
    with pytest.raises(KeyError, match="mine"):
        train_parallel(train_member, _networks(4), workers=2, threads=1)
    assert time.monotonic() - since < SOON
    assert sorted(began) == [0, 1]


def test_results_keep_the_order_of_the_members() -> None:
    def train_member(member: int, network: nn.Module, stop: threading.Event) -> loop.FitResult:
        time.sleep(0.05 * (2 - member))
        assert not stop.is_set()
        return loop.FitResult(network, seconds=member)

    networks = _networks(3)
    found = train_parallel(train_member, networks, workers=3, threads=1)
    assert [(fitted.network, fitted.seconds) for fitted in found] == list(zip(networks, [0, 1, 2], strict=True))
    for seconds, workers, expected in (([3.0, 5.0, 4.0], 2, 7.0), ([3.0, 5.0, 4.0], 1, 12.0), ([2.0], 4, 2.0)):
        assert parallel_seconds(seconds, workers) == expected
    assert parallel_seconds([3.0, 5.0, 4.0], 3) == 5.0


def _learn() -> small.Trained:
    return small.train_table(dropout=0.2, epochs=3, averaging={"decay": 0.9})


@pytest.mark.parametrize("workers", [1, 2])
def test_the_learner_goes_on_with_every_member(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "count_workers", lambda *_: workers)
    whole = _learn()

    def kill(figures: dict[str, float], step: int) -> None:
        if step == 14 and "member1.train_loss" in figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.listening(kill), checkpoints.checkpointing(tmp_path, 3600.0):
        _learn()
    assert step_of(tmp_path / "member1.pt") == 14
    with checkpoints.checkpointing(tmp_path, 3600.0):
        small.assert_same(_learn(), whole)
    assert files_in(tmp_path) == ["member0.pt", "member1.pt"]
    assert {record["member"] for record in whole[1] if "exp_rmspe" in record} == {0, 1}


def test_the_learners_seconds_are_those_of_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "count_workers", lambda *_: 1)
    with checkpoints.checkpointing(tmp_path, 3600.0):
        _learn()
        for member, seconds in ((0, 300.0), (1, 200.0)):
            path = tmp_path / f"member{member}.pt"
            kept = torch.load(path, weights_only=True)
            kept["state"].update(seconds=seconds, timed={"steps": 100, "seconds": seconds})
            torch.save(kept, path)
        figures = _learn()[0].metrics
    assert 500.0 < figures["seconds"] < 530.0
    assert figures["rows_per_second"] == pytest.approx(100 * 400 / 7 * (1 / 300 + 1 / 200) / 2)  # 7 batches of 400 rows


def test_members_count_as_much_as_they_weigh() -> None:
    first, second = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 2.0], [-1.0, 0.0]])
    assert weighted_mean([first, second], [3.0, 1.0]).tolist() == [[2.0, 2.0], [2.0, 3.0]]
    assert weighted_mean([first, second], [0.75, 0.25]).tolist() == [[2.0, 2.0], [2.0, 3.0]]  # ratios alone count
    assert weighted_mean([first, second], [1.0, 1.0]).tolist() == np.mean([first, second], axis=0).tolist()


def test_one_member_is_its_own_mean_to_the_last_bit() -> None:
    output = np.random.default_rng(0).normal(size=7).astype(np.float32)
    found = weighted_mean([output], [0.3])
    assert found.dtype == np.float64
    assert (found == output).all()


def test_the_mean_is_exact_where_a_single_precision_sum_is_not() -> None:
    outputs = [np.full(1, 1e8, dtype=np.float32), np.full(1, 1.0, dtype=np.float32)]
    assert weighted_mean(outputs, [0.5, 0.5]).tolist() == [50_000_000.5]


@pytest.mark.parametrize(("n_outputs", "n_weights"), [(2, 1), (1, 2), (0, 0)])
def test_each_output_needs_a_weight(n_outputs: int, n_weights: int) -> None:
    with pytest.raises(ValueError, match=f"need a weight for each output, got {n_weights} for {n_outputs}"):
        weighted_mean([np.zeros(3)] * n_outputs, [1.0] * n_weights)
