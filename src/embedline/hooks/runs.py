"""Hooks of a run: checkpoints of its trainings, Spark, artifacts that the report lacks, and what it publishes."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from embedline.errors import DataError
from embedline.pipelines.publish.pipeline import PUBLISH
from embedline.pipelines.report.pipeline import TAG
from embedline.spark import configure, flatten, require_spark

logger = logging.getLogger(__name__)
results = logging.getLogger("embedline.results")  # what it logs is shown without --verbose

# A run that was narrowed by one of these did not go the whole way from the source to the service.
NARROWED = {
    "tags": "--tags",
    "from_nodes": "--from-nodes",
    "to_nodes": "--to-nodes",
    "node_names": "--nodes",
    "from_inputs": "--from-inputs",
    "to_outputs": "--to-outputs",
    "load_versions": "--load-versions",
    "namespaces": "--namespaces",
    "only_missing_outputs": "--only-missing-outputs",
}


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


class SparkSettings:
    """Settings of the Spark session: ``spark.yml`` of the environment, and ``--params spark.…`` on top."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read the settings; an environment without ``spark.yml`` has no frames of Spark."""
        loader: Any = context.config_loader
        loader.config_patterns.setdefault("spark", ["spark*", "spark*/**"])
        given = context.params.get("spark", {})
        if not isinstance(given, Mapping):
            raise DataError(f"the parameter 'spark' has to be settings such as spark.master=local[2], got {given!r}")
        try:
            settings = loader["spark"]
        except MissingConfigException as error:
            if given:
                raise DataError(f"spark.{next(iter(given))} is for --env spark: this one has no spark.yml") from error
            settings = {}
        configure({**flatten(settings), **flatten({"spark": given})})

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Say before the first node what is missing, PySpark or Java, if a dataset of the run is a frame of Spark."""
        names = (name for name in pipeline.datasets() if not name.startswith("params:") and name in catalog)
        if any(type(catalog.get(name)).__module__ == "embedline.datasets.spark" for name in names):
            require_spark()


class MissingArtifacts:
    """Have the nodes of the report read None for a source's artifacts that are not there.

    The file that stands for them holds ``null`` and belongs to the package. So the incremental runner sees an input
    that does not change, and one that does once the artifact is made.
    """

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Put the stand-in where an input that only the report reads does not exist."""
        reading = pipeline.only_nodes_with_tags(TAG)
        needed = {name for node in set(pipeline.nodes) - set(reading.nodes) for name in node.inputs}
        free = [name for name in reading.inputs() if name in pipeline.inputs() and not name.startswith("params:")]
        missing = [name for name in sorted(set(free) - needed) if name in catalog and not catalog.exists(name)]
        if not missing:
            return
        from kedro_datasets.json import JSONDataset

        stand_in = str(files("embedline.pipelines.report") / "missing.json")
        catalog_logger = logging.getLogger("kedro.io.data_catalog")
        catalog_logger.addFilter(_is_no_replacement)  # a warning for each, of what is meant here
        try:
            for name in missing:
                catalog[name] = JSONDataset(filepath=stand_in)
        finally:
            catalog_logger.removeFilter(_is_no_replacement)
        logger.info("Not stored, and left out of the report: %s", ", ".join(missing))


def _is_no_replacement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Replacing dataset")


class Publishing:
    """Register ``<source>.service`` once the run as a whole has succeeded, and move the alias if it beats the champion.

    Kedro calls the hook neither for a failed nor for a planned run. Nodes that were skipped as unchanged count: their
    service is published if the registry does not have it.
    """

    @hook_impl(tryfirst=True)  # kedro-mlflow ends its run at the same hook
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Publish every source whose publish pipeline was run."""
        sources = [str(node.namespace) for node in pipeline.nodes if PUBLISH in node.tags]
        if not sources:
            return
        if option := next((option for key, option in NARROWED.items() if run_params.get(key)), None):
            logger.warning("Not published: %s of %s; a run without it publishes", option, ", ".join(sources))
            return
        for source in sources:
            _publish(source, catalog, env=run_params.get("env") or "sample")


def _publish(source: str, catalog: Any, env: str) -> None:
    import mlflow

    from embedline.serving.champion import RecordedScore
    from embedline.serving.registry import Registry, log_service

    champion = catalog.get(f"{source}.champion")
    if mlflow.active_run() is None:
        logger.warning("%s is not published: no MLflow run is active, tracking is switched off", source)
        return
    if mlflow.get_tracking_uri() != champion.tracking_uri:
        raise DataError(
            f"{source}.champion in the catalog has the tracking_uri {champion.tracking_uri}, and the run is tracked in "
            f"{mlflow.get_tracking_uri()}: make them the same"
        )
    metrics = catalog.load(f"{source}.service_metrics")
    recorded = RecordedScore(**{name: metrics[name] for name in RecordedScore.model_fields})
    service = catalog.load(f"{source}.service")
    known = {"source": source, "env": env, "metric": metrics["metric"], **recorded.model_dump(mode="json")}
    service = replace(service, metadata={**service.metadata, **known})
    published = Registry(champion.tracking_uri).publish(
        champion.name,
        service,
        recorded,
        evaluation=lambda: catalog.load(f"{source}.evaluation"),
        log=lambda service: log_service(service, source),
    )
    version = f"{champion.name} version {published.version.number}"
    is_now = "is the champion" if published.is_champion else "is not the champion"
    results.info("%s (%s) %s: %s", version, "new" if published.is_new else "known", is_now, published.reason)
    mlflow.set_tags({f"{source}.published": f"{version} {is_now}: {published.reason}"[:5000]})
