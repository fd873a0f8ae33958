"""Hooks of every run: misspelt parameters stop it, and MLflow learns what it did."""

import difflib
import logging
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic import BaseModel

from embedline.errors import DataError

logger = logging.getLogger(__name__)

RUNTIME_KEYS = {"data_root", "tracking_root"}  # runtime parameters that the configuration itself reads


class ParameterCheck:
    """Refuse a parameter that no registered pipeline reads: a misspelt block would otherwise be ignored in silence.

    Keys inside a block are checked by the block's own pydantic model.
    """

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Compare every parameter with the ``params:`` inputs of all pipelines."""
        read = {
            name.removeprefix("params:")
            for pipeline in _all_pipelines()
            for name in pipeline.inputs()
            if name.startswith("params:")
        }
        unread = sorted(_unread(parameters["parameters"], read))
        if unread:
            hints = difflib.get_close_matches(unread[0], read, n=1)
            hint = f": did you mean {hints[0]!r}?" if hints else f"; these are read: {', '.join(sorted(read))}"
            raise DataError(f"no pipeline reads the parameter {unread[0]!r}{hint}")


def _all_pipelines() -> Iterable[Pipeline]:
    from embedline.pipeline_registry import register_pipelines

    return register_pipelines().values()


def _unread(parameters: Mapping[str, Any], read: set[str], prefix: str = "") -> Iterable[str]:
    """Names of the outermost parameters that are not read, nor hold or belong to one that is."""
    for key, value in parameters.items():
        name = f"{prefix}{key}"
        if name in read or (not prefix and (name in RUNTIME_KEYS or name.startswith("_"))):
            continue  # a key that starts with _ is a template in YAML
        if isinstance(value, Mapping) and any(other.startswith(f"{name}.") for other in read):
            yield from _unread(value, read, prefix=f"{name}.")
        else:
            yield name


class Tracking:
    """Add to kedro-mlflow's run: flattened parameters, live and final metrics, figures, versions and the git commit.

    kedro-mlflow opens and closes the run. It logs a pydantic parameter as one long string, so the flattened values are
    logged here, and its own logging of parameters is left to plain ones.
    """

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._listening = ExitStack()
        self._run_of_another = False

    @hook_impl(tryfirst=True)
    def after_context_created(self) -> None:
        """Remember whether somebody else's MLflow run is active: that one stays open after ours."""
        self._run_of_another = _active_mlflow() is not None

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Tag the run with the commit and the environment."""
        self._catalog = catalog
        if mlflow := _active_mlflow():
            mlflow.set_tags({**_git_state(Path(run_params["project_path"])), "env": run_params.get("env") or "sample"})

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Log the node's settings, and send what it reports while it runs to MLflow under its namespace."""
        mlflow = _active_mlflow()
        if not mlflow:
            return
        settings = {
            f"{name.removeprefix('params:')}{key}": value
            for name, block in inputs.items()
            if name.startswith("params:") and isinstance(block, BaseModel)
            for key, value in _flatten(block.model_dump(mode="json"))
        }
        if settings:
            mlflow.log_params({name: str(value)[:6000] for name, value in settings.items()})
        self._listen(mlflow, node.namespace)

    def _listen(self, mlflow: Any, namespace: str | None) -> None:
        from embedline.training import progress

        prefix = f"{namespace}." if namespace else ""
        run_id = mlflow.active_run().info.run_id

        def log(figures: dict[str, float], step: int) -> None:
            mlflow.log_metrics({prefix + name: value for name, value in figures.items()}, step=step, run_id=run_id)

        self._listening.close()
        self._listening.enter_context(progress.listening(log))

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
    def on_pipeline_error(self) -> None:
        """A failed node must not leave its listener behind for the next run of the process."""
        self._listening.close()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log metrics and figures, as the dataset's ``metadata: {mlflow: metrics | figure}`` asks."""
        mlflow = _active_mlflow()
        if not mlflow or self._catalog is None:
            return
        kind = (getattr(self._catalog.get(dataset_name), "metadata", None) or {}).get("mlflow")
        source = dataset_name.rsplit(".", 1)[0]
        if kind == "metrics":
            numbers = {name: value for name, value in _flatten(data) if isinstance(value, int | float)}
            mlflow.log_metrics({source + name: float(value) for name, value in numbers.items()})
        elif kind == "figure":
            mlflow.log_figure(data, f"{dataset_name.replace('.', '/')}.html")


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
