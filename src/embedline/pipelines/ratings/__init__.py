"""The reusable ratings learner as modular pipelines; see :mod:`.pipeline`."""

from embedline.pipelines.ratings.pipeline import create_cross_validation_pipeline, create_pipeline

__all__ = ["create_cross_validation_pipeline", "create_pipeline"]
