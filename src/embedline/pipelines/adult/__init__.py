"""UCI Adult: from the two files, or generated ones, to ``adult.table``."""

from embedline.pipelines.adult.pipeline import create_pipeline

__all__ = ["create_pipeline"]
