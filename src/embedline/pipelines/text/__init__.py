"""The reusable text learner as modular pipelines; see :mod:`.pipeline`."""

from embedline.pipelines.text.pipeline import create_finder_pipeline, create_pipeline, create_prediction_pipeline

__all__ = ["create_finder_pipeline", "create_pipeline", "create_prediction_pipeline"]
