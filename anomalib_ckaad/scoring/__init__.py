"""From residuals of features to an anomaly map and an image score: pure functions and the buffers they need."""
