"""Settings of every learner tuned on rows inside the training part."""
