"""Members side by side: one that fails, or Ctrl-C, ends them all soon, and what they had done is not lost."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from functools import cache
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.pipelines.tabular import learner
from embedline.pipelines.tabular.columns import Columns, Split, assign_splits
from embedline.pipelines.tabular.encoder import Encoder, encode, fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.training import checkpoint as checkpoints
from embedline.training import ensemble
from embedline.training import metrics as progress
from embedline.training import train as loop
from embedline.training.batches import Stopped
from embedline.training.checkpoint import Record
from embedline.training.device import make_accelerator
from embedline.training.dropout import Dropout, seed_dropout
from embedline.training.ensemble import parallel_seconds, train_parallel
from embedline.training.model_file import ModelBundle
from embedline.training.options import Averaging, TrainingOptions

N_STEPS = 600
PAUSE = 0.02  # seconds a step, where a training is to be caught in the middle
SOON = 3.0  # seconds from the interruption to its exception; the trainings would take 12


def _networks(count: int) -> list[nn.Module]:
    networks: list[nn.Module] = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks.append(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), Dropout(0.1), nn.Linear(16, 1), nn.Flatten(0)))
        seed_dropout(networks[-1], seed)
    return networks


def _train(count: int, loss_of: Callable[[int], loop.Loss] | None = None) -> list[nn.Module]:
    """Train ``count`` members, two at a time, under whoever keeps checkpoints; their networks."""
    options = TrainingOptions(epochs=N_STEPS // 4, batch_size=5, lr=0.01, device="cpu", precision="fp32")
    accelerator = make_accelerator(options)
    numbers = torch.Generator().manual_seed(1)
    tensors = torch.randn(20, 3, generator=numbers), torch.randn(20, generator=numbers)

    def train_member(member: int, network: nn.Module, stop: threading.Event) -> loop.FitResult:
        return loop.fit(
            network,
            tensors,
            loss_of(member) if loss_of else F.mse_loss,
            options,
            accelerator=accelerator,
            seed=member,
            checkpoint=checkpoints.current(f"member{member}"),
            stop=stop,
            alone=False,
        )

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


def _step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state"]["step"])


def _weights(networks: list[nn.Module]) -> list[Tensor]:
    return [torch.cat([tensor.flatten() for tensor in network.state_dict().values()]) for network in networks]


def _assert_goes_on_to_the_same(folder: Path, count: int) -> None:
    with checkpoints.checkpointing(folder, 3600.0):
        resumed = _train(count)
    whole = _train(count)
    assert len(whole) == count
    for ours, theirs in zip(_weights(resumed), _weights(whole), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_ends_all_members_soon_and_nothing_is_lost(tmp_path: Path) -> None:
    steps = Steps()
    sent: list[float] = []

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
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["member0.pt", "member1.pt"]
    reached = [_step_of(tmp_path / f"member{member}.pt") for member in (0, 1)]
    assert [*reached, 0] == steps.taken  # every step is kept, and the third member never began
    assert all(10 <= step < N_STEPS for step in reached)
    _assert_goes_on_to_the_same(tmp_path, 3)


def test_a_member_that_fails_ends_the_others_soon(tmp_path: Path) -> None:
    steps = Steps(fail=(1, 8))
    with pytest.raises(RuntimeError, match="member 1 fails"), checkpoints.checkpointing(tmp_path, 3600.0):
        _train(3, steps.loss_of)
    assert 0.0 < time.monotonic() - steps.failed_at < SOON
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["member0.pt"]  # the other's last step is half done
    assert _step_of(tmp_path / "member0.pt") == steps.taken[0] < N_STEPS // 4
    assert steps.taken[1:] == [8, 0]
    _assert_goes_on_to_the_same(tmp_path, 3)


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


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [([3.0, 5.0, 4.0], 2, 7.0), ([3.0, 5.0, 4.0], 1, 12.0), ([3.0, 5.0, 4.0], 3, 5.0), ([2.0], 4, 2.0)],
)
def test_the_time_of_trainings_side_by_side(seconds: list[float], workers: int, expected: float) -> None:
    assert parallel_seconds(seconds, workers) == expected


@cache
def _encoded() -> tuple[nw.DataFrame[Any], Encoder]:
    numbers = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "shop": [f"s{index % 5}" for index in range(200)],
            "heat": numbers.normal(size=200),
            "sales": numbers.uniform(1.0, 9.0, size=200),
            "held_out": [index % 4 == 0 for index in range(200)],
        }
    )
    columns = Columns(categorical=("shop",), continuous=("heat",), target="sales", id=("shop",))
    split = Split(kind="column", column="held_out", value=True)
    parts = assign_splits(nw.from_native(table, eager_only=True), columns, split)
    encoder = fit_encoder(parts.filter(nw.col("split") == "train"), columns, EncodingOptions(target_transform="log"))
    return encode(parts, encoder), encoder


def _learn() -> tuple[ModelBundle, list[Record]]:
    network = NetworkOptions(layers=(8,), dropout=0.2, embedding_dropout=0.05)
    training = TableTraining(
        epochs=3,
        batch_size=16,
        lr=0.01,
        seeds=(1, 2),
        device="cpu",
        precision="fp32",
        averaging=Averaging(decay=0.9),
    )
    return learner.train_network(*_encoded(), network, training)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_learner_goes_on_with_every_member(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "count_workers", lambda *_: workers)
    whole, history = _learn()

    def kill(figures: dict[str, float], step: int) -> None:
        if step == 14 and "member1.train_loss" in figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.listening(kill), checkpoints.checkpointing(tmp_path, 3600.0):
        _learn()
    assert _step_of(tmp_path / "member1.pt") == 14
    with checkpoints.checkpointing(tmp_path, 3600.0):
        bundle, resumed = _learn()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["member0.pt", "member1.pt"]
    assert bundle.weights.keys() == whole.weights.keys()
    assert [name for name in whole.weights if not torch.equal(bundle.weights[name], whole.weights[name])] == []
    assert resumed == history
    assert {record["member"] for record in history if "exp_rmspe" in record} == {0, 1}


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
    assert figures["rows_per_second"] == pytest.approx(100 * 15 * (1 / 300 + 1 / 200) / 2)
