"""The reusable tabular learner as modular pipelines."""
