"""Movie reviews, or a text corpus of your own: from an archive, a folder or tables to ``<source>.documents``."""
