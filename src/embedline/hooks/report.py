"""Hook of the report: what is not stored yet is left out, instead of stopping the run."""

import logging
from importlib.resources import files

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from embedline.pipelines.report.pipeline import TAG

logger = logging.getLogger(__name__)


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
        for name in missing:
            catalog[name] = JSONDataset(filepath=stand_in)
        logger.info("Not stored, and left out of the report: %s", ", ".join(missing))
