"""Searches as runs of Kedro: at the command line, tracked, and skipped where nothing has changed."""

from pathlib import Path
from typing import Any

import mlflow
import optuna
import polars as pl
import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from copies import PROJECT, kedro
from shared import tracking_database

pytestmark = pytest.mark.slow
SETTINGS: dict[str, dict[str, Any]] = {
    "adult": {"adult.generator.n_data": 400, "adult.generator.n_test": 100, "adult.tune.trials": 3},
    "rossmann": {"rossmann.generator.n_stores": 6, "rossmann.training.epochs": 2, "rossmann.tune.trials": 3},
}


def tune(root: Path, source: str, **more: object) -> str:
    given = {"data_root": root / "data", "tracking_root": root, **SETTINGS[source], **more}
    params = ",".join(f"{name}={value}" for name, value in given.items())
    return kedro(PROJECT, "run", "--pipelines", f"{source}_tune", "--params", params)


def newest(root: Path, source: str, name: str) -> Path:
    return sorted((root / "data/08_reporting" / source / name).glob(f"*/{name}"))[-1]


def trial_runs(root: Path) -> list[mlflow.entities.Run]:
    """Tracked trials, the first one first."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    children = [run for run in runs if "trial_state" in run.data.tags]
    parents = {run.data.tags["mlflow.parentRunId"] for run in children}
    assert parents <= {run.info.run_id for run in runs}
    return sorted(children, key=lambda run: int(run.info.run_name.split()[-1]))


@pytest.mark.parametrize("source", SETTINGS)
def test_a_search_at_the_command_line(source: str, tmp_path: Path) -> None:
    tracking_database(tmp_path)
    tune(tmp_path, source)
    trials = pl.read_parquet(newest(tmp_path, source, "trials.parquet"))
    assert trials["number"].to_list() == [0, 1, 2] and trials["default"].to_list() == [True, False, False]
    blocks = yaml.safe_load(newest(tmp_path, source, "tuned.yml").read_text())
    best = trials.filter(pl.col("state") == "complete").sort("loss").row(0, named=True)
    assert best["default"] or blocks[source]["training"]["lr"] == best["training.lr"]
    assert newest(tmp_path, source, "tuning_plot.json").stat().st_size > 0
    runs = trial_runs(tmp_path)
    assert [run.data.metrics["loss"] for run in runs] == trials["loss"].to_list()
    assert float(runs[1].data.params[f"{source}.training.lr"]) == trials["training.lr"][1]
    assert "nodes up to date" in tune(tmp_path, source)  # nothing has changed
    printed = tune(tmp_path, source, **{f"{source}.tune.trials": 4})
    more = pl.read_parquet(newest(tmp_path, source, "trials.parquet"))
    assert more[:3].equals(trials) and len(more) == 4 and f"{source}.tune: 3 of 4 trials" in printed
    assert len(trial_runs(tmp_path)) == 4
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT, runtime_params={"data_root": str(tmp_path / "data")}) as session:
        study = session.load_context().catalog.load(f"{source}.study")
    assert isinstance(study, optuna.Study) and len(study.trials) == 4
    assert study.best_value == more.filter(pl.col("state") == "complete")["loss"].min()


def test_a_faulty_space_is_named_with_its_source(tmp_path: Path) -> None:
    tracking_database(tmp_path)
    given = {"data_root": tmp_path / "data", "tracking_root": tmp_path, **SETTINGS["adult"], "adult.tune.trials": 0}
    params = ",".join(f"{name}={value}" for name, value in given.items())
    printed = kedro(PROJECT, "run", "--pipelines", "adult_tune", "--params", params, status=1)
    assert "adult.tune" in printed and "trials" in printed
