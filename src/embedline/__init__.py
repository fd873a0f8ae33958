"""embedline: embeddings learned from tables, text and ratings, from raw files to evaluated models."""

__version__ = "0.1.0"
