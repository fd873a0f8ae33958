"""The ratings learner: factor models with biases and side features, and what they recommend. Knows no source."""
