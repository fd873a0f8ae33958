"""Papers of arXiv: from the public snapshot of their metadata, or simulated, to ``arxiv.documents``."""
