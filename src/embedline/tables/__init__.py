"""The tabular learner: encoders, the entity-embedding network, baselines and figures. Knows no source."""
