"""A training that is cut off and goes on from its checkpoint ends as one that never was, to the last bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cut_off as cut
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from embedline.training import checkpoint as checkpoints
from embedline.training import metrics as progress
from embedline.training import train as loop

pytestmark = pytest.mark.usefixtures("few_records")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def versions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Precision, and a folder with the checkpoint of each member after each step, ``member0.7.pt``, and at the end."""
    folder = tmp_path_factory.mktemp("versions")
    real_save = checkpoints.Checkpoint.save

    def save(self: checkpoints.Checkpoint, kept: checkpoints.State, identity: checkpoints.Fingerprint) -> None:
        real_save(self, kept, identity)
        when = "end" if kept["epoch"] == cut.EPOCHS else kept["step"]
        shutil.copy(self.path, folder / f"{self.name}.{when}.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECORDS_PER_TRAINING", cut.RECORDS)
        patch.setattr(checkpoints.Checkpoint, "save", save)
        with checkpoints.checkpointing(folder / "live", 0.0):
            kept = cut.train_both(cut.make_options(precision=request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECORDS_PER_TRAINING", cut.RECORDS)
        for member in (0, 1):  # keeping checkpoints changes nothing
            cut.assert_same(kept[member], cut.train_one(member, cut.make_options(precision=request.param)))
    return request.param, folder


@pytest.mark.parametrize("member1", [1, cut.LAST])
@pytest.mark.parametrize("member0", [1, 3, 6, 7, 10, 12, 17, cut.LAST, "end"])  # six steps an epoch
def test_killed_after_any_step_it_ends_in_the_same_bits(member0, member1, versions, tmp_path, n_steps) -> None:
    precision, folder = versions
    for name, when in (("member0", member0), ("member1", member1)):
        shutil.copy(folder / f"{name}.{when}.pt", tmp_path / f"{name}.pt")
    with checkpoints.checkpointing(tmp_path, 3600.0):
        resumed = cut.train_both(cut.make_options(precision=precision))
    assert len(n_steps) == (cut.LAST - (cut.LAST if member0 == "end" else int(member0))) + (cut.LAST - member1)
    for member in (0, 1):
        cut.assert_same(resumed[member], cut.train_one(member, cut.make_options(precision=precision)))


def test_a_training_killed_twice_ends_in_the_same_bits(tmp_path: Path, n_steps: list[int]) -> None:
    def killing(at: int) -> loop.Loss:
        calls: list[int] = []

        def loss(output: Tensor, target: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == at:
                raise cut.Killed
            return F.mse_loss(output, target)

        return loss

    for at, reached in ((6, 5), (9, 13)):
        with checkpoints.checkpointing(tmp_path, 0.0), pytest.raises(cut.Killed):
            cut.train_one(0, cut.make_options(), loss=killing(at))
        assert cut.step_of(tmp_path / "member0.pt") == reached  # the step in which it died left no trace
    n_steps.clear()
    cut.assert_ends_as_uncut(tmp_path)
    assert len(n_steps) == cut.LAST - 13


@pytest.mark.parametrize(
    ("report", "step", "epoch"),
    [(1, 4, 0), (2, 6, 0), (3, 6, 1), (9, 18, 3)],
    ids=["after a record", "before an evaluation", "after an evaluation", "after the last"],
)
def test_interrupted_between_two_steps_it_leaves_its_state(report: int, step: int, epoch: int, tmp_path: Path) -> None:
    kept = torch.load(cut.interrupted(tmp_path, report), weights_only=True)["state"]
    assert (kept["step"], kept["epoch"]) == (step, epoch)
    cut.assert_ends_as_uncut(tmp_path)
    averaged, plain, history = cut.uncut()[0]  # what a checkpoint must carry is there to be lost
    assert any(not torch.equal(averaged[name], plain[name]) for name in plain)
    assert [record["step"] for record in history] == [4, 6, 8, 12, 16, 18]
    assert [record["step"] for record in history if "rmse" in record] == [6, 12, 18]


def test_an_error_of_the_evaluation_costs_no_step(tmp_path: Path, n_steps: list[int]) -> None:
    fail = cut.raise_at(2)
    failing = {"evaluate": lambda network: (fail(), cut.evaluate(network))[1]}
    with checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(cut.Killed):
        cut.train_one(0, cut.make_options(), **failing)
    assert len(n_steps) == 12
    cut.assert_ends_as_uncut(tmp_path)
    assert len(n_steps) == cut.LAST


@pytest.mark.usefixtures("heard")
def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(tmp_path: Path, n_steps: list[int]) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if len(n_steps) == 7:
            signal.raise_signal(signal.SIGINT)
        return F.mse_loss(output, target)

    before = signal.getsignal(signal.SIGINT)
    with checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(KeyboardInterrupt):
        cut.train_one(0, cut.make_options(), loss=loss)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(n_steps) == cut.step_of(tmp_path / "member0.pt") == 8
    cut.assert_ends_as_uncut(tmp_path)


def test_the_global_random_state_goes_on_where_a_training_is_alone(tmp_path: Path) -> None:
    def fit(alone: bool = True, **more: Any) -> tuple[cut.Outcome, Tensor]:
        torch.manual_seed(5)
        outcome = cut.train_one(0, cut.make_options(), network=cut.make_net(3, shared_dropout=0.5), alone=alone, **more)
        return outcome, torch.get_rng_state()

    with torch.random.fork_rng(devices=[]):
        whole, after = fit()
        killing = progress.listening(cut.raise_at(4))
        with killing, checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(cut.Killed):
            fit()
        with checkpoints.checkpointing(tmp_path, 3600.0):
            resumed, later = fit()
        cut.assert_same(resumed, whole)
        assert torch.equal(later, after)
        with checkpoints.checkpointing(tmp_path, 3600.0):  # finished by now: nothing more is drawn
            torch.manual_seed(5)
            untouched = torch.get_rng_state()
            assert torch.equal(fit(alone=False)[1], untouched)


def test_a_finished_training_is_not_trained_again(tmp_path: Path, n_steps: list[int]) -> None:
    cut.assert_ends_as_uncut(tmp_path)
    written = (tmp_path / "member0.pt").stat().st_mtime_ns
    cut.assert_ends_as_uncut(tmp_path)
    assert len(n_steps) == cut.LAST and (tmp_path / "member0.pt").stat().st_mtime_ns == written


# A training of its own process, for a kill that no Python code can see.
LONG = {"epochs": 30}


def _long_training(folder: Path, every: float) -> list[cut.Outcome]:
    with checkpoints.checkpointing(folder, every):
        return cut.train_both(cut.make_options(**LONG))


def test_a_killed_process_goes_on_in_another(tmp_path: Path, n_steps: list[int]) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, __file__, str(tmp_path)], env=environment, stderr=subprocess.PIPE)
    paths = [tmp_path / "member0.pt", tmp_path / "member1.pt"]
    try:
        deadline = time.monotonic() + 60.0
        while not all(path.exists() and cut.step_of(path) > 7 for path in paths):
            assert started.poll() is None, started.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        started.kill()
        started.communicate()
    assert started.returncode == -signal.SIGKILL
    reached = [cut.step_of(path) for path in paths]
    total = 6 * LONG["epochs"]
    assert all(7 < step < total for step in reached)
    resumed = _long_training(tmp_path, 3600.0)
    assert len(n_steps) == 2 * total - sum(reached)
    for member in (0, 1):
        cut.assert_same(resumed[member], cut.train_one(member, cut.make_options(**LONG)))


if __name__ == "__main__":
    real_step = loop.optimizer_step

    def slow_step(*arguments: Any) -> None:
        time.sleep(0.01)
        real_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECORDS_PER_TRAINING", cut.RECORDS)
        patch.setattr(loop, "optimizer_step", slow_step)
        _long_training(Path(sys.argv[1]), 0.0)
