"""The reusable ratings learner as modular pipelines."""
