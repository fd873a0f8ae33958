"""Runs of MLflow for the sources of a command, each below the command's own run."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.pipeline.node import Node

from embedline.pipelines.report.comparisons import compare, headlines
from embedline.redaction import redacted

# Options of the command by their names in Kedro's run_params, in the order in which the command has them.
OPTIONS = {
    "env": "--env",
    "tags": "--tags",
    "node_names": "--nodes",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
    "from_inputs": "--from-inputs",
    "to_outputs": "--to-outputs",
    "namespaces": "--namespaces",
    "load_versions": "--load-versions",
    "runtime_params": "--params",
}
INHERITED = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "git_sha", "git_dirty", "env")
DIGEST_LENGTH = 36  # MLflow takes no longer one


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of nested mappings as (``a.b``, value)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def command_of(run_params: Mapping[str, Any]) -> str:
    """The command that a run was started by, whole, without passwords."""
    words = ["kedro", "run"]
    if pipelines := _pipelines(run_params):
        words += ["--pipelines", ",".join(pipelines)]
    for name, option in OPTIONS.items():
        value = run_params.get(name)
        if name == "runtime_params" and value:
            value = [f"{key}={each}" for key, each in flatten(redacted(value))]
        elif name == "load_versions" and value:
            value = [f"{key}:{version}" for key, version in value.items()]
        if value:
            words += [option, value if isinstance(value, str) else ",".join(map(str, value))]
    return shlex.join(words)


def source_of(node: Node) -> str | None:
    """Source that a node works for; None of one that works for several, such as the report."""
    source = str(node.namespace or "").partition(".")[0]
    return source if source not in ("", "report") else None


class SourceRuns:
    """Open a run for a source when its first node runs, and close all at the end.

    ``parent`` is the entity of the command's run; a source's run is named by the settings of it in Kedro's
    ``run_params``.
    """

    def __init__(self, client: Any, parent: Any, run_params: Mapping[str, Any]) -> None:
        self._client, self._parent = client, parent
        self._given = dict(flatten(redacted(run_params.get("runtime_params") or {})))
        self._ids: dict[str, str] = {}

    def run_id(self, source: str | None) -> str:
        """Id of a source's run, opened at the first call; of the command's where there is no source."""
        if source is None:
            return str(self._parent.info.run_id)
        if source not in self._ids:
            own = [
                f"{key.removeprefix(f'{source}.')} {value}"
                for key, value in self._given.items()
                if key.startswith(f"{source}.")
            ]
            tags = {name: value for name, value in self._parent.data.tags.items() if name in INHERITED}
            tags |= {"mlflow.parentRunId": self._parent.info.run_id, "source": source}
            name = " · ".join([source, *own])[:250]
            made = self._client.create_run(self._parent.info.experiment_id, run_name=name, tags=tags)
            self._ids[source] = made.info.run_id
        return self._ids[source]

    def log_headline(self, source: str, metrics: Mapping[str, Any]) -> None:
        """Log the metric that the scoreboard shows of a source, and its best baseline's, by names that all have."""
        for one in headlines(compare(metrics)):
            if one.main is None:
                continue
            run_id = self.run_id(source)
            self._client.set_tag(run_id, "headline_metric", one.main.label)
            self._client.log_metric(run_id, "headline", one.model.values[one.main.name])
            if one.best_baseline:
                self._client.set_tag(run_id, "headline_baseline", one.best_baseline.label)
                self._client.log_metric(run_id, "headline_baseline", one.best_baseline.values[one.main.name])
            return

    def log_versions(self, read: Mapping[str, str | None], written: Mapping[str, str | None], folder: Path) -> None:
        """Log the datasets that each source's nodes read from earlier runs, and the models that they wrote.

        A model stays where the catalog keeps it: MLflow has its name, its version and that place.
        """
        import mlflow
        from mlflow.entities import Dataset, DatasetInput

        for source, run_id in self._ids.items():
            inputs = [
                DatasetInput(Dataset(name, str(version or "unversioned")[:DIGEST_LENGTH], "local", str(folder)))
                for name, version in read.items()
                if name.startswith(f"{source}.")
            ]
            if inputs:
                self._client.log_inputs(run_id, inputs)
            for name, version in written.items():
                if name.startswith(f"{source}.") and name.rpartition(".")[2] == "model":
                    tags = {"version": str(version), "catalog": name, "folder": str(folder)}
                    mlflow.create_external_model(
                        name=name.replace(".", "_"),
                        source_run_id=run_id,
                        tags=tags,
                        experiment_id=self._parent.info.experiment_id,
                    )

    def close(self, status: str) -> None:
        """End the runs of all sources."""
        for run_id in self._ids.values():
            self._client.set_terminated(run_id, status)
        self._ids = {}


def _pipelines(run_params: Mapping[str, Any]) -> list[str]:
    names = run_params.get("pipeline_names") or [run_params.get("pipeline_name")]
    return [name for name in names if name and name != "__default__"]
