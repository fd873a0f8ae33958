"""However a training of several processes ends, it says why in one line and leaves no process behind."""

import multiprocessing
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_trainings as small
import torch
import torch.distributed as dist
from cut_off import step_of

from embedline.errors import DataError
from embedline.training import checkpoint as checkpoints
from embedline.training import distributed
from embedline.training import metrics as progress
from embedline.training.options import FitOptions

ROOT = Path(__file__).resolve().parents[2]


def make_options(**changes: Any) -> FitOptions:
    values = {"epochs": 1, "lr": 1.0, "batch_size": 2, "processes": 2, "device": "cpu", **changes}
    return FitOptions.model_validate(values)


def children() -> list[int]:
    """Processes that the training under way has started."""
    return [child.pid for child in sorted(multiprocessing.active_children(), key=lambda child: child.name) if child.pid]


def fail(rank: int) -> None:
    """Fail in one of the processes, while the others wait for it."""
    if dist.get_rank() == rank:
        raise ZeroDivisionError(f"in rank {rank}")
    dist.all_reduce(torch.ones(1))


def failing_in_rank_0(stop: Any) -> None:
    fail(0)


def failing_in_rank_1(stop: Any) -> None:
    fail(1)


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process has ended, or does so soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_processes_started_by_the_training_give_the_weights_of_one(tmp_path: Path) -> None:
    heard: list[str] = []
    with progress.listening(lambda metrics, step: heard.extend(metrics)), checkpoints.checkpointing(tmp_path, 0.0):
        ours = small.train_table(batch_norm=False, processes=2, seeds=(1,))
    small.assert_close(ours, small.train_table(batch_norm=False, seeds=(1,)))
    assert ours[0].metrics["processes"] == 2
    assert {"train_loss", "lr", "exp_rmspe"} <= set(heard)  # here, where the listener is
    assert step_of(tmp_path / "member0.pt") == len({record["step"] for record in ours[1]})


def test_a_process_that_is_killed_ends_the_training_in_one_line() -> None:
    found: list[int] = []

    def kill(*_: Any) -> None:
        if not found:
            found.extend(children())
            os.kill(found[0], signal.SIGKILL)

    with progress.listening(kill), pytest.raises(DataError, match=r"^process 2 of 2 .*SIGKILL .*last checkpoint$"):
        small.train_table(processes=2, epochs=400)
    assert len(found) == 1 and gone(found[0])
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (failing_in_rank_0, ZeroDivisionError, r"^in rank 0$"),  # an error of this process is itself
        (failing_in_rank_1, DataError, r"^process 2 of 2 .*ZeroDivisionError: in"),  # of another one it is told
    ],
)
def test_an_error_of_one_process_ends_the_others(function: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        distributed.run(function, options=make_options())
    assert not children()


def test_a_listener_that_fails_ends_the_training_with_a_checkpoint(tmp_path: Path) -> None:
    listening = progress.listening(lambda *_: 1 / 0)
    with listening, checkpoints.checkpointing(tmp_path, 3600.0), pytest.raises(ZeroDivisionError):
        small.train_table(processes=2, epochs=400, seeds=(1,))
    assert 0 < step_of(tmp_path / "member0.pt") < 7 * 400
    assert not children()


def test_where_a_process_cannot_start_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
    with pytest.raises(DataError, match=r"process 2 of 2 of the training ended with an error: .*1"):
        distributed.run(failing_in_rank_0, options=make_options())


def test_one_process_is_this_one_and_more_than_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.run(sizes, options=make_options(processes=1)) == (1, [])
    assert distributed.run(sizes, options=make_options())[0] == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DataError, match=r"training\.processes is 2, but PyTorch finds 1 CUDA device"):
        distributed.run(failing_in_rank_0, options=make_options(device="auto"))


def sizes(stop: Any) -> tuple[int, list[int]]:
    return (dist.get_world_size() if dist.is_initialized() else 1), children()


# A training in a process of its own, for ends that it cannot see.
STUCK = """
import multiprocessing, os, sys, time
import small_trainings as small
from embedline.training import metrics as progress

def tell(*_):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60.0)

with progress.listening(tell):
    small.train_table(processes=2)
"""


def test_the_others_end_with_a_first_process_that_is_killed() -> None:
    folders = [str(ROOT / "src"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", STUCK], env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        others = [int(pid) for pid in run.stdout.readline().split()]
        assert len(others) == 1 and all(Path(f"/proc/{pid}").exists() for pid in others)
        run.kill()
    assert all(map(gone, others))


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_a_launcher_of_one_process_changes_nothing(launcher, monkeypatch, caplog) -> None:
    own = {"torchrun": {"RANK": "0", "WORLD_SIZE": "1"}, "accelerate": {"ACCELERATE_USE_CPU": "True"}}[launcher]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", **own}.items():
        monkeypatch.setenv(name, value)
    with distributed.launched() as leads:
        assert leads and not dist.is_initialized()
    told = "started one process" in caplog.text and "--multi_gpu" in caplog.text
    assert told is (launcher == "accelerate")
