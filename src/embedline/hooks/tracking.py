"""Hooks on what a run tells: its record in MLflow, and messages that name datasets and hold no password."""

import functools
import inspect
import json
import logging
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node
from pydantic import BaseModel

from embedline.errors import NO_NAMES, TrainingError, causes_of, describe_outage, input_names
from embedline.hooks.source_runs import SourceRuns, command_of, flatten, source_of
from embedline.paths import sqlite_url
from embedline.redaction import filter_log_records, redacted
from embedline.training.metrics import listening, require_finite
from kedro_incremental import RunInterrupted, RunReport

logger = logging.getLogger(__name__)

LIVE = "training."  # before the names of live metrics: the last of them are not the final ones
LIVE_SECONDS = 2.0  # between two batches of live metrics
BATCH_METRICS = 500  # MLflow takes a thousand at a time
NAME_LENGTH, PARAMETER_LENGTH = 250, 6000
TAG_LENGTH = 5000  # MLflow refuses longer tags; the artifact run.json has everything

Method = TypeVar("Method", bound=Callable[..., Any])


def survive_outage(method: Method) -> Method:
    """Have a hook warn of an outage of MLflow or the disk, once, instead of ending the run and losing a node's work.

    From then on the hooks of the object, or of its attribute ``tracker``, do nothing: its ``outage`` is true.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracker = getattr(self, "tracker", self)
        if getattr(tracker, "outage", False):
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            line = describe_outage(error)
            if line is None:
                raise
            tracker.outage = True
            logger.warning("%s. The run goes on, and is not tracked from here", line)
            return None

    return cast(Method, call)


class LiveMetrics:
    """Metrics that a node reports while it runs, sent in batches to ``run_id``; to be flushed before that changes.

    A call takes MLflow some 30 ms, as long as thirty steps of a small network. Several threads may report.
    """

    def __init__(self, run_id: str, *, tracker: object = None) -> None:
        self.run_id = run_id
        self.tracker = tracker or self  # one of them warns of an outage
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        self._lock = threading.Lock()

    def add(self, values: dict[str, float], step: int) -> None:
        """Keep metrics of the optimiser step ``step``, and send those that have waited for :data:`LIVE_SECONDS`."""
        from mlflow.entities import Metric

        require_finite(values, "MLflow")
        now = int(time.time() * 1000)
        metrics = [Metric(tracked(LIVE + name), float(value), now, step) for name, value in values.items()]
        with self._lock:
            self._waiting += metrics
            due = time.monotonic() - self._sent >= LIVE_SECONDS or len(self._waiting) >= BATCH_METRICS
        if due:
            self.flush()

    @survive_outage
    def flush(self) -> None:
        """Send the metrics that wait."""
        import mlflow

        with self._lock:
            waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for first in range(0, len(waiting), BATCH_METRICS):
            mlflow.MlflowClient().log_batch(self.run_id, metrics=waiting[first : first + BATCH_METRICS])


class Tracking:
    """Track a run: for each source a run of its own, below the command's, which kedro-mlflow opens and closes.

    A source's run has its flattened parameters, live and final metrics, plots and the versions that it read and wrote.
    """

    only_observes = True  # what a node makes does not depend on it: an edit here retrains nothing

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._listening = ExitStack()
        self._live: LiveMetrics | None = None
        self._runs: SourceRuns | None = None
        self._run_of_another = False
        self._run_id: str | None = None
        self._did_nothing = False
        self._folder = Path()

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Remember whether somebody else's MLflow run is active, which stays open after ours; make the database."""
        self.outage = False
        self._run_of_another = active_mlflow() is not None
        if not self._run_of_another:
            loader: Any = context.config_loader
            loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
            create_database((loader["mlflow"].get("server") or {}).get("mlflow_tracking_uri") or "")

    @hook_impl
    @survive_outage
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Tag the command's run with the whole command, the commit and the environment."""
        self._catalog, self._live, self._runs, self._did_nothing = catalog, None, None, False
        self._listening.close()
        self._folder = Path(run_params["project_path"])
        if mlflow := active_mlflow():
            self._run_id = mlflow.active_run().info.run_id
            tags = {**_git_state(self._folder), "env": run_params.get("env") or "sample"}
            command = command_of(run_params)
            mlflow.set_tags({**tags, "kedro_command": command[:TAG_LENGTH]})
            client = mlflow.MlflowClient()
            if not self._run_of_another:
                client.update_run(self._run_id, name=command.removeprefix("kedro ")[:NAME_LENGTH])
            self._runs = SourceRuns(client, client.get_run(self._run_id), run_params)

    @hook_impl(tryfirst=True)
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> dict[str, Any]:
        """Log the node's settings, flattened and redacted, and hide them from later hooks: kedro-mlflow would log them
        once more, in one piece. The node gets them as they are.
        """
        settings = {name: value for name, value in inputs.items() if name == "parameters" or name.startswith("params:")}
        if active_mlflow():
            self._log_settings(node, settings)
            for name in settings:
                del inputs[name]
        return settings

    @survive_outage
    def _log_settings(self, node: Node, settings: dict[str, Any]) -> None:
        import mlflow
        from mlflow.entities import Param

        if self._runs is None:
            return
        source = source_of(node)
        found: dict[str, Any] = {}
        for name, value in settings.items():
            whole = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            key = name.removeprefix("params:").removeprefix(f"{source}.")
            found |= dict(flatten(redacted({key: whole})))
        run_id = self._runs.run_id(source)
        params = [Param(tracked(name), str(value)[:PARAMETER_LENGTH]) for name, value in found.items()]
        mlflow.MlflowClient().log_batch(run_id, params=params)
        if self._live is None:
            self._live = LiveMetrics(run_id, tracker=self)
            self._listening.callback(self._live.flush)  # after the last report
            self._listening.enter_context(listening(self._live.add))
        self._live.run_id = run_id

    @hook_impl
    def after_node_run(self) -> None:
        """Send the last metrics of the node: the next one may report to the run of another source."""
        if self._live:
            self._live.flush()

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Close what kedro-mlflow leaves open: it starts the run once more at each node and ends it once.

        A second run in the same process (a notebook, a test) would go on logging into the first one. The run of a
        command that did nothing is deleted.
        """
        self._listening.close()
        self._close_sources("FINISHED")
        while not self._run_of_another and (mlflow := active_mlflow()):
            mlflow.end_run()
        self._forget_nothing()

    @survive_outage
    def _close_sources(self, status: str) -> None:
        if self._runs:
            self._runs.close(status)

    @survive_outage
    def _forget_nothing(self) -> None:
        """Delete the run of a command that ran no node and published nothing."""
        if self._did_nothing and self._run_id and not self._run_of_another:
            import mlflow

            client = mlflow.MlflowClient()
            if not any(name.endswith(".published") for name in client.get_run(self._run_id).data.tags):
                client.delete_run(self._run_id)

    @hook_impl
    @survive_outage
    def after_incremental_run(self, report: RunReport) -> None:
        """Tag the run with the versions read and written and the nodes skipped; mark earlier runs that were killed."""
        mlflow = active_mlflow()
        if not mlflow:
            return
        tags = {
            "run_id": report.run_id,  # Kedro's, or a later one: the version of what was written
            "nodes_ran": ", ".join(report.nodes("ran")) or "none",
            "nodes_skipped": ", ".join(report.nodes("skipped")) or "none",
            "versions_read": json.dumps(report.read),
            "versions_written": json.dumps(report.written),
        }
        mlflow.set_tags({name: text[:TAG_LENGTH] for name, text in tags.items()})
        mlflow.log_dict(asdict(report), "run.json")
        self._did_nothing = report.succeeded and not report.nodes("ran")
        if self._runs:
            self._runs.log_versions(report.read, report.written, self._folder)
        for run_id in report.killed:
            _mark_killed(mlflow, run_id)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Mark an interrupted run, once kedro-mlflow has closed it as failed; leave no listener behind."""
        self._listening.close()
        self._close_sources("KILLED" if isinstance(error, RunInterrupted) else "FAILED")
        if isinstance(error, RunInterrupted) and self._run_id and not self._run_of_another:
            import mlflow

            mlflow.MlflowClient().set_terminated(self._run_id, "KILLED")

    @hook_impl
    @survive_outage
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log metrics and plots, as the dataset's ``metadata: {mlflow: metrics | figure | page | yaml}`` asks."""
        if not active_mlflow() or self._catalog is None or self._runs is None:
            return
        import mlflow

        kind = (getattr(self._catalog.get(dataset_name), "metadata", None) or {}).get("mlflow")
        if kind is None:
            return
        from mlflow.entities import Metric

        source, _, name = dataset_name.rpartition(".")
        run_id, client = self._runs.run_id(source if source != "report" else None), mlflow.MlflowClient()
        if kind == "metrics":
            require_finite(data, dataset_name)
            now = int(time.time() * 1000)
            numbers = {key: float(value) for key, value in flatten(data) if isinstance(value, int | float)}
            client.log_batch(run_id, metrics=[Metric(tracked(key), value, now, 0) for key, value in numbers.items()])
            self._runs.log_headline(source, data)
        elif kind == "figure":
            client.log_figure(run_id, data, f"{name}.html")
        else:
            client.log_text(run_id, data, f"{dataset_name.replace('.', '/')}.html" if kind == "page" else f"{name}.yml")


def active_mlflow() -> Any:
    """The mlflow module where a run is active, else None (tracking switched off, or a notebook without it)."""
    import mlflow

    return mlflow if mlflow.active_run() else None


def tracked(name: str) -> str:
    """A name that MLflow takes: a class such as ``>50K`` or a column such as ``Grade (A-F)`` may be a part of it."""
    return re.sub(r"[^\w.\- :/]", "_", name)


def _git_state(project: Path) -> dict[str, str]:
    """Commit of the project and whether it had uncommitted changes; nothing outside of a git checkout."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError) as error:
        logger.debug("No git commit to tag the run with: %s", error)
        return {}
    return {"git_sha": commit, "git_dirty": str(bool(changes)).lower()}


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


def _mark_killed(mlflow: Any, run_id: str) -> None:
    """Close the tracking of a run that was killed: it could not do so itself, and would stand there as running."""
    experiment = mlflow.active_run().info.experiment_id
    client = mlflow.MlflowClient()
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    # No filter of MLflow's takes every name.
    killed = {run.info.run_id for run in running if run.data.tags.get("run_id") == run_id}
    for run in running:
        if run.info.run_id in killed or run.data.tags.get("mlflow.parentRunId") in killed:
            client.set_terminated(run.info.run_id, "KILLED")


class DatasetNames:
    """Name the dataset in messages about a frame, ``houses.table`` for ``table``, and the block in a training's."""

    only_observes = True

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Let the warnings of the node name its inputs."""
        input_names.set(_inputs_by_argument(node))

    @hook_impl
    def after_node_run(self) -> None:
        """Forget the names: a function called after the node, in a notebook, has other inputs."""
        input_names.set(NO_NAMES)

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        """Put the name into the error before the run ends with it."""
        input_names.set(NO_NAMES)
        if isinstance(error, TrainingError):
            blocks = (name for name in node.inputs if name.startswith("params:") and name.endswith("training"))
            error.block = next(blocks, error.block).removeprefix("params:")


class Redaction:
    """Keep passwords and tokens of the parameters, and those in error messages, from trackers, logs and the screen."""

    only_observes = True  # a node gets what it was given: an edit here retrains nothing

    @hook_impl(tryfirst=True)
    def after_context_created(self) -> None:
        """Redact the log lines of handlers that were added since the package was imported."""
        filter_log_records()

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Redact ``--params`` for trackers: kedro-mlflow makes a tag of it."""
        run_params["runtime_params"] = redacted(run_params.get("runtime_params"))

    @hook_impl(tryfirst=True)
    def before_node_run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Show other hooks redacted parameters, kedro-mlflow stores them; the node gets those that it was given."""
        hidden = {}
        for name, value in inputs.items():
            if name == "parameters" or name.startswith("params:"):
                values = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
                if isinstance(values, str | Mapping | list) and (shown := redacted(values)) != values:
                    hidden[name], inputs[name] = value, shown
        return hidden

    @hook_impl(tryfirst=True)
    def on_node_error(self, error: Exception) -> None:
        """Redact the message before kedro-viz stores it and the screen shows it."""
        _redact_error(error)

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Redact the message, that of a dataset as well: Kedro writes ``load_args`` into it."""
        _redact_error(error)


def _inputs_by_argument(node: Node) -> dict[str, str]:
    names = node._inputs  # one name, a list in the order of the parameters, or a mapping by parameter
    positional = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    keywords = names if isinstance(names, dict) else {}
    return dict(inspect.signature(node.func).bind(*positional, **keywords).arguments)


def _redact_error(error: BaseException | None) -> None:
    """Redact an error and its causes, which tracebacks show."""
    for one in causes_of(error):
        one.args = tuple(redacted(text) if isinstance(text, str) else text for text in one.args)
