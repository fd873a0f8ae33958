"""Movie reviews, or your own text corpus: from an archive, a folder or tables to ``<source>.documents``."""
