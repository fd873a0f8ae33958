"""Rossmann store sales: from the public files to ``rossmann.table``, and from a forecast to a submission."""

from embedline.pipelines.rossmann.pipeline import create_pipeline, create_submission_pipeline
from embedline.pipelines.rossmann.publishing import create_publish_pipeline

__all__ = ["create_pipeline", "create_publish_pipeline", "create_submission_pipeline"]
