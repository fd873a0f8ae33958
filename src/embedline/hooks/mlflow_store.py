"""MLflow's store: the database of a first run, and the runs that could not close themselves."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedline.paths import sqlite_url


def create_database(uri: str) -> None:
    """Create MLflow's SQLite database beside its place, and give it its name once it is whole.

    MLflow creates it in dozens of steps, seconds in all; one that a kill cut short fails every later run.
    """
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite"):
        return
    path = Path(make_url(uri).database or ":memory:")
    if path.name == ":memory:" or path.exists():
        return
    import mlflow

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        staged = Path(folder, path.name)
        mlflow.MlflowClient(tracking_uri=sqlite_url(str(staged))).search_experiments()
        with suppress(FileExistsError):  # another first run was quicker: its database stays
            os.link(staged, path)


def mark_killed(mlflow: Any, run_id: str) -> None:
    """Close the tracking of a run that was killed: it could not do so itself, and would stand there as running."""
    experiment = mlflow.active_run().info.experiment_id
    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if run.data.tags.get("run_id") == run_id:  # no filter of MLflow's takes every name
            client.set_terminated(run.info.run_id, "KILLED")
