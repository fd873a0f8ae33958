"""What every learner shares: the loop, schedules, metrics, devices and model bundles."""
