"""Models into service: packing, measuring on raw rows, publishing, and batch prediction."""

from embedline.pipelines.serving.pipeline import create_publish_pipeline
from embedline.pipelines.serving.predicting import create_predict_pipeline
from embedline.pipelines.serving.tables import create_table_publish_pipeline

__all__ = ["create_predict_pipeline", "create_publish_pipeline", "create_table_publish_pipeline"]
