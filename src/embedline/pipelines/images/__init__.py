"""The image learner: from ``<source>.images`` to a stored, evaluated and explained classifier of pictures."""
