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
from collections.abc import Callable, Iterable, Mapping
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
from embedline.paths import sqlite_url
from embedline.redaction import filter_log_records, redacted
from embedline.training.metrics import listening, require_finite
from kedro_incremental import RunInterrupted, RunReport

logger = logging.getLogger(__name__)

LIVE_SECONDS = 2.0  # between two batches of live metrics
BATCH_METRICS = 500  # MLflow takes a thousand at a time
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
    """Metrics that a node reports while it runs, sent to MLflow in batches.

    A call takes MLflow some 30 ms, as long as thirty steps of a small network. Several threads may report.

    Attributes:
        prefix: of the names: the namespace of the node that runs.
    """

    def __init__(self, run_id: str, *, prefix: str = "", tracker: object = None) -> None:
        self._run_id, self.prefix = run_id, prefix
        self.tracker = tracker or self  # one of them warns of an outage
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        self._lock = threading.Lock()

    def add(self, values: dict[str, float], step: int) -> None:
        """Keep metrics of the optimiser step ``step``, and send those that have waited for :data:`LIVE_SECONDS`."""
        from mlflow.entities import Metric

        require_finite(values, "MLflow")
        now = int(time.time() * 1000)
        metrics = [Metric(tracked(self.prefix + name), float(value), now, step) for name, value in values.items()]
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
            mlflow.MlflowClient().log_batch(self._run_id, metrics=waiting[first : first + BATCH_METRICS])


class Tracking:
    """Add to kedro-mlflow's run: flattened parameters, live and final metrics, plots, versions and the git commit.

    kedro-mlflow opens and closes the run. It logs a pydantic parameter as one long string, so the flattened values are
    logged here, and its own logging of parameters is left to plain ones.
    """

    only_observes = True  # what a node makes does not depend on it: an edit here retrains nothing

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._listening = ExitStack()
        self._live: LiveMetrics | None = None
        self._run_of_another = False
        self._run_id: str | None = None

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
        """Tag the run with the commit and the environment."""
        self._catalog, self._live = catalog, None
        self._listening.close()
        if mlflow := active_mlflow():
            self._run_id = mlflow.active_run().info.run_id
            mlflow.set_tags({**_git_state(Path(run_params["project_path"])), "env": run_params.get("env") or "sample"})

    @hook_impl
    @survive_outage
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Log the node's settings; what it reports while it runs goes to MLflow under its namespace."""
        mlflow = active_mlflow()
        if not mlflow:
            return
        settings = {
            f"{name.removeprefix('params:')}{key}": value
            for name, block in inputs.items()
            if name.startswith("params:") and isinstance(block, BaseModel)
            # A block that is a single value is logged by kedro-mlflow itself.
            if isinstance(values := block.model_dump(mode="json"), Mapping)
            for key, value in _flatten(values)
        }
        if settings:
            mlflow.log_params({tracked(name): str(value)[:6000] for name, value in settings.items()})
        if self._live is None:
            self._live = LiveMetrics(mlflow.active_run().info.run_id, tracker=self)
            self._listening.callback(self._live.flush)  # after the last report
            self._listening.enter_context(listening(self._live.add))
        self._live.prefix = f"{node.namespace}." if node.namespace else ""

    @hook_impl
    def after_node_run(self) -> None:
        """Send the last metrics of the node: the next one reports under its own name."""
        if self._live:
            self._live.flush()

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Close what kedro-mlflow leaves open: it starts the run once more at each node and ends it once.

        A second run in the same process (a notebook, a test) would go on logging into the first one.
        """
        self._listening.close()
        while not self._run_of_another and (mlflow := active_mlflow()):
            mlflow.end_run()

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
        for run_id in report.killed:
            _mark_killed(mlflow, run_id)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Mark an interrupted run, once kedro-mlflow has closed it as failed; leave no listener behind."""
        self._listening.close()
        if isinstance(error, RunInterrupted) and self._run_id and not self._run_of_another:
            import mlflow

            mlflow.MlflowClient().set_terminated(self._run_id, "KILLED")

    @hook_impl
    @survive_outage
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log metrics and plots, as the dataset's ``metadata: {mlflow: metrics | figure | page | yaml}`` asks."""
        mlflow = active_mlflow()
        if not mlflow or self._catalog is None:
            return
        kind = (getattr(self._catalog.get(dataset_name), "metadata", None) or {}).get("mlflow")
        source = dataset_name.rsplit(".", 1)[0]
        if kind == "metrics":
            require_finite(data, dataset_name)
            numbers = {name: value for name, value in _flatten(data) if isinstance(value, int | float)}
            mlflow.log_metrics({tracked(source + name): float(value) for name, value in numbers.items()})
        elif kind == "figure":
            mlflow.log_figure(data, f"{dataset_name.replace('.', '/')}.html")
        elif kind == "page":
            mlflow.log_text(data, f"{dataset_name.replace('.', '/')}.html")
        elif kind == "yaml":
            mlflow.log_text(data, f"{dataset_name.replace('.', '/')}.yml")


def active_mlflow() -> Any:
    """The mlflow module where a run is active, else None (tracking switched off, or a notebook without it)."""
    import mlflow

    return mlflow if mlflow.active_run() else None


def _flatten(values: Mapping[str, Any], prefix: str = ".") -> Iterable[tuple[str, Any]]:
    """Leaves of nested mappings as (``.a.b``, value)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if run.data.tags.get("run_id") == run_id:  # no filter of MLflow's takes every name
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
