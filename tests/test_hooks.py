"""What runs tell: live metrics, MLflow's database, messages that name datasets and hold no password, outages."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import polars as pl
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from pydantic import BaseModel

from embedline.errors import DataError, TrainingError, about_frame, describe_outage
from embedline.hooks import tracking
from embedline.hooks.source_runs import command_of, flatten
from embedline.hooks.tracking import DatasetNames, LiveMetrics, Redaction, Tracking, create_database, tracked
from embedline.paths import sqlite_url
from kedro_incremental import RunReport
from kedro_incremental.report import Step
from shared import tracking_database


def test_flattening_names_every_leaf() -> None:
    nested = {"a": 1, "b": {"c": [2, 3], "d": {"e": None}}, "f": {}}
    assert list(flatten(nested)) == [("a", 1), ("b.c", [2, 3]), ("b.d.e", None)]


def test_the_command_of_a_run_is_whole_and_holds_no_password() -> None:
    given = {"shop": {"source": "https://joe:S3CRET@host/a b.zip", "training": {"epochs": 3}}}
    run_params = {
        "env": "base",
        "pipeline_names": ["shop", "films"],
        "to_nodes": ["shop.train"],
        "runtime_params": given,
    }
    assert command_of(run_params) == (
        "kedro run --pipelines shop,films --env base --to-nodes shop.train "
        "--params 'shop.source=https://***@host/a b.zip,shop.training.epochs=3'"
    )
    assert command_of({"env": None, "pipeline_names": ["__default__"]}) == "kedro run"


def test_the_tracking_database_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "mlflow.db"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "search_experiments", killed)
        with pytest.raises(KeyboardInterrupt):
            create_database(f"sqlite:///{path}")
    assert not path.exists() and not list(path.parent.iterdir())
    create_database(f"sqlite:///{path}")
    assert [e.name for e in mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()] == ["Default"]
    content = path.read_bytes()
    create_database(f"sqlite:///{path}")  # one that is there stays as it is
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]
    create_database("https://tracking.example")  # a server makes its own


def test_names_become_such_as_mlflow_takes() -> None:
    assert tracked("adult.baselines.lightgbm.>50K") == "adult.baselines.lightgbm._50K"
    assert tracked("school.targets.Grade (A-F).log_loss") == "school.targets.Grade _A-F_.log_loss"
    assert tracked("größe.rmse") == "größe.rmse"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    """Of a tracking database of its own, where this process tracks."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tracking_database(tmp_path)}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_live_metrics_reach_mlflow_in_batches_whole_and_in_order(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "LIVE_SECONDS", 3600.0)
    monkeypatch.setattr(tracking, "BATCH_METRICS", 10)
    run_id = client.create_run(client.create_experiment("live")).info.run_id
    live = LiveMetrics(run_id)
    for step in range(13):
        live.add({"loss": 1.0 / (step + 1), "share of >50K": 0.5}, step)
    # Two values a report: the fifth fills a batch, and so does the tenth; the others wait for the end.
    assert [m.step for m in client.get_metric_history(run_id, "training.loss")] == list(range(10))
    live.flush()
    live.flush()
    found = client.get_metric_history(run_id, "training.loss")
    assert [(m.step, m.value) for m in found] == [(step, 1.0 / (step + 1)) for step in range(13)]
    assert len(client.get_metric_history(run_id, "training.share of _50K")) == 13
    monkeypatch.setattr(tracking, "LIVE_SECONDS", 0.0)
    live.add({"loss": 0.0}, 13)  # at once, while the node runs
    assert client.get_metric_history(run_id, "training.loss")[-1].step == 13


def test_runs_are_joined_by_the_version_they_wrote_and_killed_ones_are_closed(client: mlflow.MlflowClient) -> None:
    experiment = client.create_experiment("runs")
    names = ("2026", "bob's", "of another")
    killed = {name: client.create_run(experiment, tags={"run_id": name}).info.run_id for name in names}
    parents = {name: {"mlflow.parentRunId": run_id} for name, run_id in killed.items()}
    below = {name: client.create_run(experiment, tags=tags).info.run_id for name, tags in parents.items()}
    with mlflow.start_run(experiment_id=experiment, tags={"run_id": "2026"}) as active:
        Tracking().after_incremental_run(report=RunReport("2026_later", killed=list(names[:2])))
    assert client.get_run(active.info.run_id).data.tags["run_id"] == "2026_later"
    for ids in (killed, below):
        states = {name: client.get_run(run_id).info.status for name, run_id in ids.items()}
        assert states == {"2026": "KILLED", "bob's": "KILLED", "of another": "RUNNING"}


@pytest.mark.parametrize(("ran", "published", "kept"), [(0, False, False), (0, True, True), (1, False, True)])
def test_a_command_that_did_nothing_leaves_no_run(
    client: mlflow.MlflowClient, ran: int, published: bool, kept: bool
) -> None:
    experiment, tracking = client.create_experiment("idle"), Tracking()
    with mlflow.start_run(experiment_id=experiment) as active:
        tracking.before_pipeline_run({"project_path": "."}, catalog=None)  # type: ignore[arg-type]
        report = RunReport("2026", [Step("shop.train", "run", ["new"], "ran")] * ran)
        tracking.after_incremental_run(report=report)
        if published:
            mlflow.set_tag("shop.published", "version 1")
    tracking.after_pipeline_run()
    found = client.search_runs([experiment])
    assert [run.info.run_id for run in found] == ([active.info.run_id] if kept else [])


def test_a_database_in_a_folder_of_any_name(tmp_path: Path) -> None:
    name = "a%20b%3Fc d[e]ñ中&f=g#h?i"  # cut off anywhere, or unquoted, it would be another folder
    path = tmp_path / name / "mlflow.db"
    create_database(sqlite_url(str(path)))
    assert path.exists() and os.listdir(tmp_path) == [name] and os.listdir(path.parent) == ["mlflow.db"]
    assert [e.name for e in mlflow.MlflowClient(sqlite_url(str(path))).search_experiments()] == ["Default"]
    assert os.listdir(tmp_path) == [name]  # MLflow makes the folder of an address that it does not unquote


def test_trackers_see_no_password_and_the_node_does() -> None:
    class Block(BaseModel):
        token: str = "S3CRET"
        epochs: int = 3

    given = {
        "params:a.source": "https://joe:S3CRET@host/a",
        "params:a.block": Block(),
        "params:a.epochs": 3,
        "a.raw": 1,
    }
    seen = dict(given)
    for_the_node = Redaction().before_node_run(seen)
    assert seen == {**given, "params:a.source": "https://***@host/a", "params:a.block": {"token": "***", "epochs": 3}}
    assert {**seen, **for_the_node} == given
    run_params = {"runtime_params": {"a": {"source": "https://joe:S3CRET@host/a"}}, "env": None}
    Redaction().before_pipeline_run(run_params)
    assert run_params == {"runtime_params": {"a": {"source": "https://***@host/a"}}, "env": None}


def test_errors_and_log_lines_lose_their_passwords() -> None:
    cause = OSError("https://joe:S3CRET@host/a")
    error = RuntimeError("load_args={'secret': 'S3CRET'}", 3)
    error.__cause__ = cause
    Redaction().on_pipeline_error(error)
    assert (error.args, cause.args) == (("load_args={'secret': '***'}", 3), ("https://***@host/a",))
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        Redaction().after_context_created()
        Redaction().after_context_created()
        assert len(handler.filters) == 1
        line = logging.makeLogRecord({"msg": "from %s, %d rows", "args": ("https://joe:S3CRET@host/a", 3)})
        assert handler.filter(line) and line.getMessage() == "from https://***@host/a, 3 rows"
        assert handler.filter(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    finally:
        logging.getLogger().removeHandler(handler)


def test_an_outage_of_tracking_is_reported_once_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def fail(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise mlflow.MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]")

    monkeypatch.setattr(mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="r")))
    monkeypatch.setattr(mlflow, "set_tags", fail)
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail)
    tracking = Tracking()
    live = LiveMetrics("r", tracker=tracking)
    live.add({"loss": 1.0}, 1)
    live.flush()
    live.add({"loss": 1.0}, 2)
    live.flush()
    tracking.before_pipeline_run({"project_path": "."}, catalog=None)  # type: ignore[arg-type]
    assert tried == [1] and len(caplog.records) == 1
    assert "database or disk is full" in caplog.text and "SQL" not in caplog.text
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # an error of the code is none of the machine
        other = LiveMetrics("r")
        other.add({"loss": 1.0}, 1)
        other.flush()


def test_tracking_listens_from_the_first_node_on_so_that_no_plan_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedline.training import metrics as progress

    monkeypatch.setattr(mlflow, "active_run", lambda: SimpleNamespace(info=SimpleNamespace(run_id="r")))
    for name in ("set_tags", "end_run"):
        monkeypatch.setattr(mlflow, name, lambda *_: None)
    entity = SimpleNamespace(info=SimpleNamespace(run_id="r", experiment_id="1"), data=SimpleNamespace(tags={}))
    made: Any = lambda *_, **given: SimpleNamespace(info=SimpleNamespace(run_id=given["run_name"]))  # noqa: E731
    monkeypatch.setattr(mlflow.MlflowClient, "get_run", lambda *_: entity)
    monkeypatch.setattr(mlflow.MlflowClient, "create_run", made)
    for name in ("log_batch", "set_terminated"):
        monkeypatch.setattr(mlflow.MlflowClient, name, lambda *_, **__: None)
    tracking = Tracking()
    tracking._run_of_another = True
    tracking.before_pipeline_run({"project_path": "."}, catalog=None)  # type: ignore[arg-type]
    assert progress._listeners() == []  # the run's id in a module of the nodes would have all of them run again
    for node in (Node(len, "a", "b", name="one", namespace="x"), Node(len, "b", "c", name="two", namespace="y")):
        inputs = {"params:epochs": 3, "a": 1}
        assert tracking.before_node_run(node, inputs=inputs) == {"params:epochs": 3} and inputs == {"a": 1}
        assert len(progress._listeners()) == 1 and tracking._live and tracking._live.run_id == node.namespace
    tracking.after_pipeline_run()
    assert progress._listeners() == []


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), ("/data/x", "No space left")),
        (OSError(errno.EROFS, "Read-only file system", "/data/.runs"), ("/data/.runs", "Read-only")),
        (OSError(errno.ENOSPC, "No space left on device"), ("TMPDIR",)),
        (mlflow.MlflowException("connection refused by http://joe:S3CRET@host"), ("MLflow", "http://***@host")),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), None),
        (ValueError("a mistake in the code"), None),
    ],
)
def test_outages_differ_from_mistakes_in_the_code(error: Exception, named: tuple[str, ...] | None) -> None:
    line = describe_outage(error)
    if named is None:
        assert line is None
    else:
        assert line and "\n" not in line and all(text in line for text in named) and "S3CRET" not in line


def naming() -> Any:
    """A hook manager with nothing but the hook that names datasets."""
    hooks = _create_hook_manager()
    hooks.register(DatasetNames())
    return hooks


def _fail(table: Any, items: Any = None) -> int:
    del table, items
    with about_frame("table"):
        raise DataError("column 'x' is odd")


def _fail_by_keyword(items: Any, table: Any) -> int:
    return _fail(table, items)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (_fail, "table"),
        (_fail, ["table", "items"]),
        (_fail_by_keyword, ["items", "table"]),
        (_fail, {"items": "items", "table": "table"}),
    ],
)
def test_an_error_names_the_dataset(function: Any, inputs: Any) -> None:
    node = Node(function, inputs, "n", name="fail")
    pipeline = Pipeline([node], namespace="houses", inputs={"table": "deeds.sold"})
    datasets = {name: MemoryDataset(pl.DataFrame()) for name in pipeline.inputs()}
    with pytest.raises(DataError, match=r"^deeds\.sold: column 'x' is odd$"):
        SequentialRunner().run(pipeline, DataCatalog(datasets), hook_manager=naming())


def _diverge(encoded: Any, training: dict[str, Any]) -> int:
    del encoded
    raise TrainingError("the training diverged in epoch 2 of 3", training["lr"])


@pytest.mark.parametrize("block", ["training", "language_model_training"])
def test_an_error_of_a_training_names_the_block_with_its_rate(block: str) -> None:
    node = Node(_diverge, ["encoded", f"params:{block}"], "model", name="train")
    parameters = {f"params:houses.{block}"}
    pipeline = Pipeline([node], namespace="houses", parameters={f"params:{block}": f"params:houses.{block}"})
    catalog = DataCatalog({name: MemoryDataset({"lr": 100.0}) for name in {*pipeline.inputs(), *parameters}})
    with pytest.raises(DataError, match=rf"epoch 2 of 3.* lr in houses\.{block}, which is 100"):
        SequentialRunner().run(pipeline, catalog, hook_manager=naming())
