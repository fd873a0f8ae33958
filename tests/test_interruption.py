"""A training that is interrupted, then killed, ends with the weights of one that was left alone."""

import signal
import time
from pathlib import Path

import mlflow
import pytest
import safetensors.torch

import warm
from kedro_incremental import Manifest
from shared import tracking_database

PROJECT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "rossmann.generator.n_stores": 6,
    "rossmann.network.dropout": 0.1,
    "rossmann.training.epochs": 14,
    "rossmann.training.batch_size": 64,
    "rossmann.training.averaging.decay": 0.99,
    "rossmann.training.precision": "fp32",
    "checkpoint_seconds": 0.1,
}


def start(root: Path) -> warm.Process:
    """Start a real `kedro run` up to the trained model, with artifacts and tracking under ``root``."""
    given = {"data_root": root / "data", "tracking_root": root, **SETTINGS}
    params = ",".join(f"{name}={value}" for name, value in given.items())
    arguments = ["--pipelines", "rossmann", "--to-nodes", "rossmann.train", "--params", params]
    return warm.start("kedro", "run", *arguments, cwd=PROJECT)


def stop_in_training(root: Path, number: signal.Signals) -> tuple[int, str]:
    """Send a signal once both members have written their next checkpoint; exit status and what was printed."""
    run = start(root)
    scratch = root / "data" / ".runs" / "scratch" / "rossmann.train"
    before = {path.name: path.stat().st_mtime_ns for path in scratch.glob("*/*.pt")}
    deadline = time.monotonic() + 600
    while sum(path.stat().st_mtime_ns > before.get(path.name, 0) for path in scratch.glob("*/member?.pt")) < 2:
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        time.sleep(0.01)
    run.send_signal(number)
    printed, _ = run.communicate(timeout=600)
    return run.returncode, printed


def weights(root: Path) -> dict[str, object]:
    """Tensors of the stored model."""
    (path,) = (root / "data/06_models/rossmann/model.safetensors").glob("*/model.safetensors")
    return dict(safetensors.torch.load_file(path))


def statuses(root: Path) -> list[str]:
    """Status of each MLflow run, oldest first."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("embedline")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run.info.status for run in runs]


@pytest.mark.slow
def test_an_interrupted_and_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    for name in ("undisturbed", "disturbed"):
        tracking_database(tmp_path / name)
    undisturbed = start(tmp_path / "undisturbed")
    status, printed = stop_in_training(tmp_path / "disturbed", signal.SIGINT)
    assert status == 130 and printed.strip().splitlines()[-1].startswith("Stopped: interrupted"), printed
    assert "interrupted" in printed and "Traceback" not in printed
    assert statuses(tmp_path / "disturbed") == ["KILLED"]

    status, printed = stop_in_training(tmp_path / "disturbed", signal.SIGKILL)
    assert status == -signal.SIGKILL
    status, printed = stop_in_training(tmp_path / "disturbed", signal.SIGKILL)
    assert statuses(tmp_path / "disturbed") == ["KILLED", "RUNNING", "RUNNING"]

    last = start(tmp_path / "disturbed")
    printed, _ = last.communicate(timeout=900)
    assert last.returncode == 0, printed
    said = " ".join(printed.split())
    assert said.count("Going on at step") == 2, said
    assert statuses(tmp_path / "disturbed") == ["KILLED", "KILLED", "KILLED", "FINISHED"]
    assert not list((tmp_path / "disturbed/data/.runs/scratch").glob("*/*"))

    printed, _ = undisturbed.communicate(timeout=900)
    assert undisturbed.returncode == 0 and "Going on at step" not in printed, printed
    ours, theirs = weights(tmp_path / "disturbed"), weights(tmp_path / "undisturbed")
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, tensor in ours.items():
        assert (tensor == theirs[name]).all(), name
    assert Manifest(tmp_path / "disturbed/data/.runs").records["rossmann.train"].why == "first run"
