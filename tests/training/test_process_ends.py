"""However a training of several processes ends, it says why in one line and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import small_trainings as small
import torch
from embedline.training.processes import Team
from torch import nn

from embedline.errors import DataError
from embedline.pipelines.tabular import learner
from embedline.training import launcher, processes, progress
from embedline.training.options import FitOptions

ROOT = Path(__file__).resolve().parents[2]


def make_options(**changes: Any) -> FitOptions:
    values = {"epochs": 1, "lr": 1.0, "batch_size": 2, "processes": 2, "device": "cpu", **changes}
    return FitOptions.model_validate(values)


def helpers_of(team: Team | None) -> list[int]:
    assert team is not None
    return [helper.pid for helper in team.helpers]


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process has ended, or does so soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (
            not Path(f"/proc/{pid}").exists()
            or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        ):
            return True
        time.sleep(0.02)
    return False


def test_a_process_that_is_killed_ends_the_training_in_one_line() -> None:
    found: list[int] = []

    def kill(*_: Any) -> None:
        if not found:
            found.extend(helpers_of(processes.current()))
            os.kill(found[0], signal.SIGKILL)

    with (
        progress.listening(kill),
        pytest.raises(DataError, match=r"process 2 of 2 of the training was ended by SIGKILL .*last checkpoint$"),
    ):
        small.train_table(processes=2, epochs=400)
    assert gone(found[0])
    assert processes.current() is None and not torch.distributed.is_initialized()


def test_an_error_here_is_itself_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def failing(network: nn.Module, *_: Any) -> Any:
        found.extend(helpers_of(processes.current()))
        raise ZeroDivisionError("of the evaluation")

    monkeypatch.setattr(learner, "network_outputs", failing)
    with pytest.raises(ZeroDivisionError, match="of the evaluation"):
        small.train_table(processes=2)
    assert found and gone(found[0])


def test_an_error_there_is_told_here() -> None:
    with (
        pytest.raises(DataError, match="process 2 of 2 of the training ended with status 1: ZeroDivisionError: there"),
        processes.team(make_options()) as team,
    ):
        assert team is not None
        with team.following(fail_there):
            team.sum(torch.ones(1))


def fail_there() -> None:
    raise ZeroDivisionError("there")


def test_where_a_process_cannot_start_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(DataError, match="process 2 of 2 of the training ended with status 1"),
        processes.team(make_options()),
    ):
        pass


def test_more_processes_than_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DataError, match=r"training\.processes is 2, but PyTorch finds 1 CUDA device"):
        with processes.team(make_options(device="auto")):
            pass


def test_one_process_is_no_team() -> None:
    with processes.team(make_options(processes=1)) as team:
        assert team is None and processes.current() is None


# A training in a process of its own, for ends that it cannot see.
STUCK = """
import os, sys, time
import small_trainings as small
from embedline.training import processes, progress

def tell(*_):
    print(processes.current().helpers[0].pid, flush=True)
    time.sleep(60.0)

with progress.listening(tell):
    small.train_table(processes=2)
"""


def test_the_others_end_with_a_first_process_that_is_killed() -> None:
    folders = [str(ROOT / "src"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", STUCK], env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        helper = int(run.stdout.readline())
        assert Path(f"/proc/{helper}").exists()
        run.kill()
    assert gone(helper)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, (2, 3)),
    ],
    ids=str,
)
def test_a_launchers_rank_is_read(
    variables: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launcher.launcher_rank() == (0, 1)  # no address to meet at
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launcher.launcher_rank() == expected


def test_accelerates_launcher_with_one_process_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "True"}.items():
        monkeypatch.setenv(name, value)
    with launcher.launched() as leads:
        assert leads
    assert "started one process" in caplog.text and "training.processes" in caplog.text
