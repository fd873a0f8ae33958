"""Hooks of every run: trainings keep checkpoints, and MLflow learns what was done."""

import inspect
import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node
from pydantic import BaseModel

from embedline.errors import DataError, TrainingError, name_inputs
from embedline.hooks.mlflow_store import create_database as _create_database
from embedline.hooks.mlflow_store import mark_killed
from embedline.hooks.outages import go_on
from embedline.training.metrics import require_finite
from kedro_incremental import RunInterrupted, RunReport

logger = logging.getLogger(__name__)

LIVE_SECONDS = 2.0  # between two batches of live metrics
BATCH_METRICS = 500  # MLflow takes a thousand at a time
TAG_LENGTH = 5000  # MLflow refuses longer tags; the artifact run.json has everything


class Checkpoints:
    """Have trainings keep checkpoints in the scratch folder that the incremental runner gives their node.

    The parameter ``checkpoint_seconds`` is the least time between two checkpoints of a training.
    """

    only_observes = True  # what a node makes does not depend on it: an edit here retrains nothing

    def __init__(self) -> None:
        self._seconds = 0.0
        self._keeping = ExitStack()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read and check the interval before anything runs."""
        seconds = context.params["checkpoint_seconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise DataError(f"checkpoint_seconds must be a number of seconds, 0 or more, got {seconds!r}")
        self._seconds = float(seconds)

    @hook_impl
    def before_node_work(self, node: Node, scratch: Path) -> None:
        """Open the folder to a node tagged ``train``; the others are spared the import of PyTorch."""
        self._keeping.close()
        if "train" in node.tags:
            from embedline.training import checkpoint

            self._keeping.enter_context(checkpoint.checkpointing(scratch, every=self._seconds))

    @hook_impl
    def after_incremental_run(self) -> None:
        """A later run in the same process has checkpoints of its own, or none."""
        self._keeping.close()


class DatasetNames:
    """Name the dataset in messages about a frame, ``houses.table`` for ``table``, and the block in a training's."""

    only_observes = True

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Let the warnings of the node name its inputs."""
        name_inputs(_inputs_by_argument(node))

    @hook_impl
    def after_node_run(self) -> None:
        """What is called after the node, in a notebook, is not about its inputs."""
        name_inputs({})

    @hook_impl
    def on_node_error(self, error: Exception, node: Node) -> None:
        """Put the name into the error before the run ends with it."""
        name_inputs({})
        if isinstance(error, TrainingError):
            blocks = (name for name in node.inputs if name.startswith("params:") and name.endswith("training"))
            error.block = next(blocks, error.block).removeprefix("params:")


def _inputs_by_argument(node: Node) -> dict[str, str]:
    names = node._inputs  # one name, a list in the order of the parameters, or a mapping by parameter
    positional = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    keywords = names if isinstance(names, dict) else {}
    return dict(inspect.signature(node.func).bind(*positional, **keywords).arguments)


class LiveMetrics:
    """What a node reports while it runs, sent to MLflow in batches.

    A call takes MLflow some 30 ms, as long as thirty steps of a small network. Trainings side by side may report.
    """

    def __init__(self, run_id: str, *, prefix: str, tracker: object = None) -> None:
        self._run_id, self._prefix = run_id, prefix
        self.tracker = tracker or self  # one of them warns of an outage
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        self._lock = threading.Lock()

    def add(self, figures: dict[str, float], step: int) -> None:
        """Keep ``figures``, measured after ``step`` steps, and send what has waited for :data:`LIVE_SECONDS`."""
        from mlflow.entities import Metric

        require_finite(figures, "MLflow")
        now = int(time.time() * 1000)
        metrics = [Metric(_tracked(self._prefix + name), float(value), now, step) for name, value in figures.items()]
        with self._lock:
            self._waiting += metrics
            due = time.monotonic() - self._sent >= LIVE_SECONDS or len(self._waiting) >= BATCH_METRICS
        if due:
            self.flush()

    @go_on
    def flush(self) -> None:
        """Send what waits."""
        import mlflow

        with self._lock:
            waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for first in range(0, len(waiting), BATCH_METRICS):
            mlflow.MlflowClient().log_batch(self._run_id, metrics=waiting[first : first + BATCH_METRICS])


class Tracking:
    """Add to kedro-mlflow's run: flattened parameters, live and final metrics, figures, versions and the git commit.

    kedro-mlflow opens and closes the run. It logs a pydantic parameter as one long string, so the flattened values are
    logged here, and its own logging of parameters is left to plain ones.
    """

    only_observes = True  # what a node makes does not depend on it: an edit here retrains nothing

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._listening = ExitStack()
        self._run_of_another = False
        self._run_id: str | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Remember whether somebody else's MLflow run is active, which stays open after ours; make the database."""
        self.outage = False
        self._run_of_another = _active_mlflow() is not None
        if not self._run_of_another:
            loader: Any = context.config_loader
            loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
            _create_database((loader["mlflow"].get("server") or {}).get("mlflow_tracking_uri") or "")

    @hook_impl
    @go_on
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Tag the run with the commit and the environment."""
        self._catalog = catalog
        if mlflow := _active_mlflow():
            self._run_id = mlflow.active_run().info.run_id
            mlflow.set_tags({**_git_state(Path(run_params["project_path"])), "env": run_params.get("env") or "sample"})

    @hook_impl
    @go_on
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Log the node's settings, and send what it reports while it runs to MLflow under its namespace."""
        mlflow = _active_mlflow()
        if not mlflow:
            return
        settings = {
            f"{name.removeprefix('params:')}{key}": value
            for name, block in inputs.items()
            if name.startswith("params:") and isinstance(block, BaseModel)
            for key, value in _leaves(block)
        }
        if settings:
            mlflow.log_params({_tracked(name): str(value)[:6000] for name, value in settings.items()})
        self._listen(mlflow, node.namespace)

    def _listen(self, mlflow: Any, namespace: str | None) -> None:
        from embedline.training import progress

        live = LiveMetrics(mlflow.active_run().info.run_id, prefix=f"{namespace}." if namespace else "", tracker=self)
        self._listening.close()
        self._listening.callback(live.flush)  # after the last report
        self._listening.enter_context(progress.listening(live.add))

    @hook_impl
    def after_node_run(self) -> None:
        """Stop listening: the next node reports under its own name."""
        self._listening.close()

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        """Close what kedro-mlflow leaves open: it starts the run once more at each node and ends it once.

        A second run in the same process (a notebook, a test) would go on logging into the first one.
        """
        while not self._run_of_another and (mlflow := _active_mlflow()):
            mlflow.end_run()

    @hook_impl
    @go_on
    def after_incremental_run(self, report: RunReport) -> None:
        """Tag the run with what was read, written and skipped, and mark those that were killed before it."""
        mlflow = _active_mlflow()
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
            mark_killed(mlflow, run_id)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Mark an interrupted run, once kedro-mlflow has closed it as failed; leave no listener behind."""
        self._listening.close()
        if isinstance(error, RunInterrupted) and self._run_id and not self._run_of_another:
            import mlflow

            mlflow.MlflowClient().set_terminated(self._run_id, "KILLED")

    @hook_impl
    @go_on
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log metrics and figures, as the dataset's ``metadata: {mlflow: metrics | figure | page}`` asks."""
        mlflow = _active_mlflow()
        if not mlflow or self._catalog is None:
            return
        kind = (getattr(self._catalog.get(dataset_name), "metadata", None) or {}).get("mlflow")
        source = dataset_name.rsplit(".", 1)[0]
        if kind == "metrics":
            require_finite(data, dataset_name)
            numbers = {name: value for name, value in _flatten(data) if isinstance(value, int | float)}
            mlflow.log_metrics({_tracked(source + name): float(value) for name, value in numbers.items()})
        elif kind == "figure":
            mlflow.log_figure(data, f"{dataset_name.replace('.', '/')}.html")
        elif kind == "page":
            mlflow.log_text(data, f"{dataset_name.replace('.', '/')}.html")


def _active_mlflow() -> Any:
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


def _tracked(name: str) -> str:
    """A name that MLflow takes: a class such as ``>50K`` or a column such as ``Grade (A-F)`` may be a part of it."""
    return re.sub(r"[^\w.\- :/]", "_", name)


def _leaves(block: BaseModel) -> Iterable[tuple[str, Any]]:
    """Settings of a block as (``.a.b``, value); none of one that is a single value, which kedro-mlflow logs itself."""
    values = block.model_dump(mode="json")
    return _flatten(values) if isinstance(values, Mapping) else ()


def _git_state(project: Path) -> dict[str, str]:
    """Commit of the project and whether it had uncommitted changes; nothing outside of a git checkout."""
    try:
        commit = _git(project, "rev-parse", "HEAD")
        return {"git_sha": commit, "git_dirty": str(bool(_git(project, "status", "--porcelain"))).lower()}
    except (OSError, subprocess.CalledProcessError) as error:
        logger.debug("No git commit to tag the run with: %s", error)
        return {}


def _git(project: Path, *arguments: str) -> str:
    finished = subprocess.run(["git", *arguments], cwd=project, check=True, capture_output=True, text=True)
    return finished.stdout.strip()
