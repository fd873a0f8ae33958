"""One HTML page of all sources; see :mod:`.pipeline`."""

from embedline.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
