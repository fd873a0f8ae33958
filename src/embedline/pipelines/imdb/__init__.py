"""Movie reviews, or a text corpus of your own: from an archive, a folder or tables to ``<source>.documents``."""

from embedline.pipelines.imdb.pipeline import create_corpus_pipeline, create_pipeline

__all__ = ["create_corpus_pipeline", "create_pipeline"]
