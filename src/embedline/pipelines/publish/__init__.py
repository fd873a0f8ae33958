"""Models into service: packing, measuring on raw rows, publishing, and batch prediction."""
