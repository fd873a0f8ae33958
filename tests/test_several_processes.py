"""Real runs whose training is shared out: by a launcher, by a parameter, and interrupted in the middle."""

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
from embedline.training.model_file import ModelBundle
from shared import tracking_database

PROJECT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "rossmann.generator.n_stores": 6,
    "rossmann.network.dropout": 0.1,
    "rossmann.training.epochs": 3,
    "rossmann.training.batch_size": 64,
    "rossmann.training.precision": "fp32",
    "checkpoint_seconds": 0.2,
}


def arguments(root: Path, **more: object) -> list[str]:
    """Of a run up to the trained model, with artifacts and tracking under ``root``."""
    given = {"data_root": root / "data", "tracking_root": root, **SETTINGS, **more}
    params = ",".join(f"{name}={value}" for name, value in given.items())
    return ["run", "--pipelines", "rossmann", "--to-nodes", "rossmann.train", "--params", params]


def start(module: str, *words: str) -> warm.Process:
    return warm.start(module, *words, cwd=PROJECT, env={**os.environ, "COLUMNS": "200"})


def start_shared(root: Path) -> warm.Process:
    return start("kedro", *arguments(root, **{"rossmann.training.processes": 2}))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def model(root: Path) -> ModelBundle:
    (path,) = (root / "data/06_models/rossmann/model.safetensors").glob("*/model.safetensors")
    assert len(safetensors.torch.load_file(path)) > 10
    return ModelBundle.from_bytes(path.read_bytes())


def statuses(root: Path) -> list[str]:
    """Status of each MLflow run, oldest first."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("embedline")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run.info.status for run in runs]


@pytest.mark.slow
def test_processes_of_a_launcher_and_of_a_parameter_interrupted_give_the_same_weights(tmp_path: Path) -> None:
    for name in ("launched", "shared"):
        tracking_database(tmp_path / name)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", str(free_port()), "--mixed_precision", "no", "--dynamo_backend", "no"]
    launched = start(*launch, "-m", "embedline", *arguments(tmp_path / "launched"))
    printed, _ = launched.communicate(timeout=900)
    assert launched.returncode == 0, printed
    assert printed.count("11 of 11 nodes ran") == 1, printed  # by the first process alone
    assert statuses(tmp_path / "launched") == ["FINISHED"]
    plain = start("kedro", *arguments(tmp_path / "launched"))
    printed, _ = plain.communicate(timeout=900)
    assert plain.returncode == 0 and "0 of 11 nodes ran" in printed, printed  # a launcher's processes change nothing

    shared = start_shared(tmp_path / "shared")
    scratch = tmp_path / "shared" / "data" / ".runs" / "scratch" / "rossmann.train"
    deadline = time.monotonic() + 600
    while not list(scratch.glob("*/member0.pt")):
        assert shared.poll() is None and time.monotonic() < deadline, shared.communicate()[0]
        time.sleep(0.01)
    others = [
        child
        for child in psutil.Process(shared.pid).children()
        if any("spawn_main" in word for word in child.cmdline())
    ]
    assert len(others) == 1
    shared.send_signal(signal.SIGINT)
    printed, _ = shared.communicate(timeout=600)
    assert shared.returncode == 130 and printed.strip().splitlines()[-1].startswith("Stopped: interrupted"), printed
    assert "Traceback" not in printed
    psutil.wait_procs(others, timeout=120)
    assert not any(other.is_running() for other in others)

    again = start_shared(tmp_path / "shared")
    printed, _ = again.communicate(timeout=900)
    assert again.returncode == 0 and "Going on at step" in " ".join(printed.split()), printed
    assert statuses(tmp_path / "shared") == ["KILLED", "FINISHED"]
    ours, theirs = model(tmp_path / "shared"), model(tmp_path / "launched")
    assert ours.metrics["processes"] == theirs.metrics["processes"] == 2
    assert [name for name, tensor in theirs.weights.items() if not torch.equal(ours.weights[name], tensor)] == []
