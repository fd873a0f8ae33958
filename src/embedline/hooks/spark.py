"""Hook that hands the settings of Spark to the session, and stops a run early where Spark cannot run."""

from collections.abc import Mapping
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from embedline.errors import DataError
from embedline.spark import configure, flatten, require_spark


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
