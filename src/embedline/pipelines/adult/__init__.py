"""UCI Adult: from the two files, or generated ones, to ``adult.table``."""
