"""Services: models that answer raw rows, MLflow's registry of them, and the HTTP server. No pickle anywhere."""
