"""``KnownAnomalies``: a few known anomalies for the training on any data set."""
