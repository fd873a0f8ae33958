"""A training that is interrupted or killed, in one process or shared out, ends with the weights of one left alone."""

import os
import signal
import socket
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import safetensors.torch
import torch

import warm
from copies import PROJECT
from embedline.training.model_file import ModelBundle
from kedro_incremental import Manifest
from shared import tracking_database

pytestmark = pytest.mark.slow
SETTINGS = {
    "rossmann.generator.n_stores": 6,
    "rossmann.network.dropout": 0.1,
    "rossmann.training.batch_size": 64,
    "rossmann.training.precision": "fp32",
}
ALONE = {"rossmann.training.epochs": 14, "rossmann.training.averaging.decay": 0.99, "checkpoint_seconds": 0.1}
SHARED = {"rossmann.training.epochs": 3, "checkpoint_seconds": 0.2}
PATIENCE = 900  # seconds


def arguments(root: Path, **more: object) -> list[str]:
    """Of a real `kedro run` up to the trained model, with artifacts and tracking under ``root``."""
    given = {"data_root": root / "data", "tracking_root": root, **SETTINGS, **more}
    params = ",".join(f"{name}={value}" for name, value in given.items())
    return ["run", "--pipelines", "rossmann", "--to-nodes", "rossmann.train", "--params", params]


def start(module: str, *words: str) -> warm.Process:
    return warm.start(module, *words, cwd=PROJECT, env={**os.environ, "COLUMNS": "200"})


def finish(run: warm.Process) -> str:
    """What a run printed, once it has ended well."""
    printed, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, printed
    return " ".join(printed.split())


def start_and_wait(root: Path, words: list[str], *, n_members: int) -> warm.Process:
    """Start a training; it runs once so many members have written their next checkpoint."""
    run = start("kedro", *words)
    scratch = root / "data/.runs/scratch/rossmann.train"
    before = {path.name: path.stat().st_mtime_ns for path in scratch.glob("*/*.pt")}
    deadline = time.monotonic() + PATIENCE
    while sum(path.stat().st_mtime_ns > before.get(path.name, 0) for path in scratch.glob("*/member?.pt")) < n_members:
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        time.sleep(0.01)
    return run


def interrupt(run: warm.Process) -> None:
    """End a run by Ctrl-C; it says so in one line."""
    run.send_signal(signal.SIGINT)
    printed, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130 and printed.strip().splitlines()[-1].startswith("Stopped: interrupted"), printed
    assert "Traceback" not in printed


def model(root: Path) -> ModelBundle:
    (path,) = (root / "data/06_models/rossmann/model.safetensors").glob("*/model.safetensors")
    assert len(safetensors.torch.load_file(path)) > 10
    return ModelBundle.from_bytes(path.read_bytes())


def assert_same_weights(one: ModelBundle, other: ModelBundle) -> None:
    assert one.weights.keys() == other.weights.keys()
    assert [name for name, tensor in other.weights.items() if not torch.equal(one.weights[name], tensor)] == []


def statuses(root: Path) -> list[str]:
    """Status of each command's MLflow run, oldest first; the runs of its sources have the same."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("embedline")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    found = {run.info.run_id: run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags}
    below = {run.data.tags["mlflow.parentRunId"]: run.info.status for run in runs if "source" in run.data.tags}
    assert below.items() <= found.items()
    return list(found.values())


def test_an_interrupted_and_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed, disturbed = (tracking_database(tmp_path / name).parent for name in ("undisturbed", "disturbed"))
    left_alone = start("kedro", *arguments(undisturbed, **ALONE))
    interrupt(start_and_wait(disturbed, arguments(disturbed, **ALONE), n_members=2))
    assert statuses(disturbed) == ["KILLED"]
    for _ in range(2):
        run = start_and_wait(disturbed, arguments(disturbed, **ALONE), n_members=2)
        run.send_signal(signal.SIGKILL)
        assert run.wait(PATIENCE) == -signal.SIGKILL, run.printed()
    assert statuses(disturbed) == ["KILLED", "RUNNING", "RUNNING"]
    said = finish(start("kedro", *arguments(disturbed, **ALONE)))
    assert said.count("Going on at step") == 2, said
    assert statuses(disturbed) == ["KILLED", "KILLED", "KILLED", "FINISHED"]
    assert not list((disturbed / "data/.runs/scratch").glob("*/*"))
    assert "Going on at step" not in finish(left_alone)
    assert_same_weights(model(disturbed), model(undisturbed))
    assert Manifest(disturbed / "data/.runs").records["rossmann.train"].why == "first run"


def test_processes_of_a_launcher_and_of_a_parameter_interrupted_give_the_same_weights(tmp_path: Path) -> None:
    launched, shared = (tracking_database(tmp_path / name).parent for name in ("launched", "shared"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", port, "--mixed_precision", "no", "--dynamo_backend", "no"]
    said = finish(start(*launch, "-m", "embedline", *arguments(launched, **SHARED)))
    assert said.count("12 of 12 nodes ran") == 1, said  # by the first process alone
    assert statuses(launched) == ["FINISHED"]
    assert "all 12 nodes up to date" in finish(
        start("kedro", *arguments(launched, **SHARED))
    )  # launched or not: the same

    in_two = arguments(shared, **SHARED, **{"rossmann.training.processes": 2})
    run = start_and_wait(shared, in_two, n_members=1)
    children = psutil.Process(run.pid).children()
    (other,) = (child for child in children if any("spawn_main" in word for word in child.cmdline()))
    interrupt(run)
    psutil.wait_procs([other], timeout=120)
    assert not other.is_running()
    assert "Going on at step" in finish(start("kedro", *in_two))
    assert statuses(shared) == ["KILLED", "FINISHED"]
    assert model(shared).metrics["processes"] == model(launched).metrics["processes"] == 2
    assert_same_weights(model(shared), model(launched))
