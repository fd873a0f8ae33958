"""MovieLens: from a release's files, or generated ones, to the frames of its ratings, items and users."""

from embedline.pipelines.movielens.pipeline import create_pipeline

__all__ = ["create_pipeline"]
