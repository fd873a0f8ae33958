"""The reusable text learner as a modular pipeline; see :mod:`.pipeline`."""

from embedline.pipelines.text.pipeline import create_pipeline

__all__ = ["create_pipeline"]
