"""One HTML page of all sources."""
