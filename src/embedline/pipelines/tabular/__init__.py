"""The reusable tabular learner as modular pipelines; see :mod:`.pipeline`."""

from embedline.pipelines.tabular.pipeline import create_final_pipeline, create_pipeline

__all__ = ["create_final_pipeline", "create_pipeline"]
