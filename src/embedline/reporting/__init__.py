"""One HTML page of what is stored: results against baselines and earlier runs, figures, and what the models say."""
