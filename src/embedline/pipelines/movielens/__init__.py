"""MovieLens: from a release's files, or generated ones, to the frames of its ratings, items and users."""
