"""The reusable text learner as modular pipelines."""
