"""A parameter that nobody reads stops the run, and nested values become flat names."""

import os
from pathlib import Path
from typing import Any

import mlflow
import pytest

from embedline import hooks
from embedline.errors import DataError
from embedline.hooks import LiveMetrics, _create_database, _flatten, _tracked
from embedline.parameter_hooks import ParameterCheck, _unread
from embedline.settings import sqlite_url

READ = {"shop.training", "shop.split", "shop.features.windows", "seed"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"seed": 1, "shop": {"training": {"epochs": 1, "anything": 2}, "split": {}}}, []),
        ({"sead": 1}, ["sead"]),
        ({"shop": {"trainig": {"epochs": 1}, "split": {}}}, ["shop.trainig"]),
        ({"shopp": {"training": {"epochs": 1}}}, ["shopp"]),
        ({"shop": {"features": {"windows": 7, "window": 3}}}, ["shop.features.window"]),
        ({"shop": 3}, ["shop"]),
        ({"shop": {}}, []),
        ({"data_root": "x", "tracking_root": "y", "_template": {"epochs": 1}}, []),
        ({"shop": {"data_root": "x"}}, ["shop.data_root"]),
    ],
)
def test_unread_parameters(parameters: dict[str, Any], expected: list[str]) -> None:
    assert list(_unread(parameters, READ)) == expected


def test_a_misspelt_block_is_named_with_its_neighbour() -> None:
    message = "no pipeline reads the parameter 'rossmann.trainig': did you mean 'rossmann.training'?"
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        ParameterCheck().after_catalog_created(parameters={"parameters": {"rossmann": {"trainig": {"epochs": 1}}}})


def test_a_strange_block_is_answered_with_all_that_are_read() -> None:
    with pytest.raises(DataError, match=r"reads the parameter 'qqq'; these are read: .*rossmann\.columns"):
        ParameterCheck().after_catalog_created(parameters={"parameters": {"qqq": 1}})


def test_what_is_read_passes() -> None:
    ParameterCheck().after_catalog_created(parameters={"parameters": {"rossmann": {"training": {"epochs": 1}}}})


def test_flattening_names_every_leaf() -> None:
    nested = {"a": 1, "b": {"c": [2, 3], "d": {"e": None}}, "f": {}}
    assert list(_flatten(nested)) == [(".a", 1), (".b.c", [2, 3]), (".b.d.e", None)]


def test_the_tracking_database_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "mlflow.db"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "search_experiments", killed)
        with pytest.raises(KeyboardInterrupt):
            _create_database(f"sqlite:///{path}")
    assert not path.exists() and not list(path.parent.iterdir())
    _create_database(f"sqlite:///{path}")
    assert [e.name for e in mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()] == ["Default"]
    content = path.read_bytes()
    _create_database(f"sqlite:///{path}")  # one that is there stays as it is
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]
    _create_database("https://tracking.example")  # a server makes its own


def test_names_become_such_as_mlflow_takes() -> None:
    assert _tracked("adult.baselines.lightgbm.>50K") == "adult.baselines.lightgbm._50K"
    assert _tracked("school.targets.Grade (A-F).log_loss") == "school.targets.Grade _A-F_.log_loss"
    assert _tracked("größe.rmse") == "größe.rmse"


def test_live_metrics_reach_mlflow_in_batches_whole_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LIVE_SECONDS", 3600.0)
    monkeypatch.setattr(hooks, "BATCH_METRICS", 10)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        client = mlflow.MlflowClient()
        run_id = client.create_run(client.create_experiment("live")).info.run_id
        live = LiveMetrics(run_id, prefix="shop.")
        for step in range(13):
            live.add({"loss": 1.0 / (step + 1), "share of >50K": 0.5}, step)
        # Two figures a report: the fifth fills a batch, and so does the tenth; the others wait for the end.
        assert [m.step for m in client.get_metric_history(run_id, "shop.loss")] == list(range(10))
        live.flush()
        live.flush()
        found = client.get_metric_history(run_id, "shop.loss")
        assert [(m.step, m.value) for m in found] == [(step, 1.0 / (step + 1)) for step in range(13)]
        assert len(client.get_metric_history(run_id, "shop.share of _50K")) == 13
    finally:
        mlflow.set_tracking_uri(before)


def test_live_metrics_are_sent_while_a_node_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lambda self, run_id, metrics: sent.append(len(metrics)))
    monkeypatch.setattr(hooks, "LIVE_SECONDS", 0.0)
    live = LiveMetrics("a run", prefix="")
    live.add({"loss": 1.0, "lr": 0.1}, 1)
    assert sent == [2]


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "a[b]", "añ中", "a%3Fb", "a&b=c"])
def test_a_database_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "mlflow.db"
    _create_database(sqlite_url(str(path)))
    assert path.exists() and os.listdir(tmp_path) == [name] and os.listdir(path.parent) == ["mlflow.db"]
    assert [e.name for e in mlflow.MlflowClient(sqlite_url(str(path))).search_experiments()] == ["Default"]
    assert os.listdir(tmp_path) == [name]  # MLflow makes the folder of an address that it does not unquote
