"""The hook that publishes: after a whole run of a publish pipeline its service is logged, registered and compared."""

import logging
from dataclasses import replace
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from embedline.errors import DataError
from embedline.pipelines.publish.pipeline import PUBLISH

logger = logging.getLogger(__name__)

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
    logger.info("%s (%s) %s: %s", version, "new" if published.is_new else "known", is_now, published.reason)
    mlflow.set_tags({f"{source}.published": f"{version} {is_now}: {published.reason}"[:5000]})
