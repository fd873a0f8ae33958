"""From a run to an answer: `adult_publish` makes a champion, and `mlflow models serve` answers for it over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from kedro.framework.startup import bootstrap_project

from copies import PROJECT
from embedline.datasets import Champion
from embedline.errors import DataError
from embedline.serving.registry import Registry
from kedro_incremental import IncrementalRunner, IncrementalSession
from shared import tracking_database

pytestmark = pytest.mark.slow

SMALL = {"generator": {"n_data": 600, "n_test": 300}, "network": {"layers": [8]}, "training": {"epochs": 1}}
SMALL |= {"finder": {"steps": 10}, "baselines": {"lightgbm": {"n_estimators": 5}}}
SMALL |= {"report": {"importance": {"rows": 50, "repeats": 1}}}
NAME = "adult_sample"


class Project:
    """Runs of the project in the sample environment, with artifacts and a registry of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = Registry(f"sqlite:///{tracking_database(root)}")

    def run(self, *, dry: bool = False, **settings: Any) -> None:
        """Run ``adult_publish`` with ``settings`` of the source."""
        roots = {"data_root": str(self.root / "data"), "tracking_root": str(self.root)}
        bootstrap_project(PROJECT)
        parameters = {**roots, "adult": {**SMALL, **settings}}
        with IncrementalSession.create(project_path=PROJECT, runtime_params=parameters) as session:
            session.run(pipeline_names=["adult_publish"], runner=IncrementalRunner(dry_run=dry))

    def versions(self) -> list[str]:
        """Versions of the registered model, the newest first."""
        return [version.number for version in self.registry.versions(NAME)]

    def champion(self) -> str | None:
        """The version that the alias stands at."""
        version = self.registry.find(NAME)
        return version.number if version else None

    def newest(self, name: str) -> Path:
        """The newest file of an artifact."""
        return max(self.root.glob(f"data/*/adult/{name}/*/{name}"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project after one run that publishes."""
    before = mlflow.get_tracking_uri()
    made = Project(tmp_path_factory.mktemp("published"))
    made.run(dry=True)
    assert made.versions() == [] and not (made.root / "data" / "06_models").exists()
    made.run()
    yield made
    mlflow.set_tracking_uri(before)


def test_a_run_publishes_what_it_measured(project: Project) -> None:
    assert project.versions() == ["1"] and project.champion() == "1"
    measured = json.loads(project.newest("service_metrics.json").read_text())
    metrics = json.loads(project.newest("metrics.json").read_text())
    recorded = project.registry.find(NAME).score
    assert measured["value"] == recorded.value == pytest.approx(metrics["accuracy"], abs=1e-12)
    assert measured["rows"] == recorded.rows == 300 and measured["evaluation"] == recorded.evaluation
    champion = Champion(name=NAME, tracking_uri=f"sqlite:///{project.root}/mlflow.db").load()
    assert champion.metadata["env"] == "sample"
    runs = mlflow.search_runs(experiment_names=["embedline"])
    assert runs["tags.adult.published"].iloc[-1].startswith("adult_sample version 1 is the champion: accuracy")
    assert set(runs["status"]) == {"FINISHED"}


def test_failed_worse_and_repeated_runs_leave_the_champion(project: Project) -> None:
    with pytest.raises(DataError, match=r"^adult\.table has no column 'nothing', which report\.error_by"):
        project.run(training={"epochs": 4}, report={**SMALL["report"], "error_by": ["nothing"]})
    assert project.versions() == ["1"] and project.champion() == "1"
    project.run()  # trains the first model again: the same answers
    assert project.versions() == ["1"] and project.champion() == "1"
    accuracy = project.registry.find(NAME).score.value
    project.run(training={"epochs": 1, "lr": 1e-7})  # learns nothing: the shares of the classes
    measured = json.loads(project.newest("service_metrics.json").read_text())
    assert measured["value"] <= accuracy
    assert project.versions() == ["2", "1"] and project.champion() == "1"


@pytest.fixture(scope="module")
def served(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `mlflow models serve`, started in an empty folder, without the project on the path."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{project.root}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion"]
    command += ["--env-manager", "local", "--port", port, "--workers", "1"]
    folder, address = tmp_path_factory.mktemp("elsewhere"), f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        pipes: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True}
        process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def ask(address: str, body: bytes | str, kind: str = "application/json") -> tuple[int, Any]:
    """Status and answer of ``/invocations``."""
    data = body.encode() if isinstance(body, str) else body
    request = urllib.request.Request(f"{address}/invocations", data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_mlflow_serves_the_champion(project: Project, served: str) -> None:
    rows = pl.read_parquet(project.newest("evaluation.parquet")).drop("actual").head(50)
    expected = project.registry.load(NAME).open().predict(rows.to_pandas())
    status, answers = ask(served, json.dumps({"dataframe_records": rows.to_dicts()}))
    assert status == 200
    assert [row["predicted"] for row in answers["predictions"]] == expected["predicted"].tolist()
    assert [row["p_>50K"] for row in answers["predictions"]] == pytest.approx(expected["p_>50K"].tolist(), rel=1e-6)
    assert ask(served, rows.write_csv(), "text/csv")[1] == answers
    unseen = {**rows.row(0, named=True), "native_country": "Atlantis", "occupation": None}
    assert ask(served, json.dumps({"dataframe_records": [unseen]}))[0] == 200


def test_mlflow_refuses_bad_requests_with_4xx(project: Project, served: str) -> None:
    row = pl.read_parquet(project.newest("evaluation.parquet")).drop("actual").row(0, named=True)
    lacking = {name: value for name, value in row.items() if name != "age"}
    for body, said in (
        ('{"dataframe_records": [', "Ensure that input is a valid JSON formatted string"),
        (json.dumps({"rows": [row]}), "exactly one of the input fields"),
        (json.dumps({"dataframe_records": [lacking]}), "Model is missing inputs ['age']"),
        (json.dumps({"dataframe_records": [{**row, "age": "old"}]}), "age"),
        (json.dumps({"dataframe_records": [{**row, "race": 7}]}), "column 'race', row 1: 7 is not text"),
    ):
        status, answer = ask(served, body)
        assert status == 400 and said in answer, answer
    assert ask(served, json.dumps({"dataframe_records": [row]}), "text/plain")[0] == 415
    assert ask(served, json.dumps({"dataframe_records": [row]}))[0] == 200
