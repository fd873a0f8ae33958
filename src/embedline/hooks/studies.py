"""Hook on searches of settings: where their trials are kept, and a child run of MLflow for each."""

from contextlib import ExitStack
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from embedline.hooks.tracking import active_mlflow, survive_outage, tracked
from embedline.pipelines.tuning.pipeline import TAG
from embedline.redaction import redacted

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class Studies:
    """Have a node that searches keep its trials in the folder of ``<source>.study``, and track each of them."""

    only_observes = True  # what a node makes does not depend on it

    def __init__(self) -> None:
        self._keeping = ExitStack()
        self.outage = False

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Open the folder to a node tagged ``tune``; the others are spared the import of Optuna."""
        self._keeping.close()
        if TAG not in node.tags:
            return
        from embedline.pipelines.tuning.study import keeping

        self.outage, source = False, str(node.namespace)
        study: Any = catalog.get(f"{source}.study")
        self._keeping.enter_context(keeping(study.folder, lambda record: self._track(source, record)))

    @hook_impl
    def after_node_run(self) -> None:
        """A later search has a folder of its own."""
        self._keeping.close()

    @hook_impl
    def on_node_error(self) -> None:
        """As after a success."""
        self._keeping.close()

    @survive_outage
    def _track(self, source: str, record: Any) -> None:
        """Log the settings, the loss and the repetitions of a trial as a run below that of Kedro's."""
        mlflow = active_mlflow()
        if not mlflow:
            return
        from mlflow.entities import Metric, Param

        parent, client = mlflow.active_run().info, mlflow.MlflowClient()
        name = f"{source} trial {record.number}"
        tags = {"mlflow.parentRunId": parent.run_id, "trial_state": record.state}
        run = client.create_run(parent.experiment_id, run_name=name, tags=tags).info
        shown = redacted(dict(record.values)) | {"default": record.default}
        params = [Param(tracked(f"{source}.{key}"), str(value)[:6000]) for key, value in shown.items()]
        losses = [Metric("repetition_loss", value, run.start_time, step) for step, value in enumerate(record.losses)]
        found = {"loss": record.loss, "std": record.std, "seconds": record.seconds}
        told = [Metric(key, value, run.start_time, 0) for key, value in found.items() if value is not None]
        client.log_batch(run.run_id, metrics=[*losses, *told], params=params)
        client.set_terminated(run.run_id, STATUS[record.state])
