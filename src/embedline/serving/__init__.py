"""What answers requests: a packed model that takes raw rows, and how MLflow loads it. No pickle anywhere."""
