"""Known anomalies for any datamodule: which are known, and how they come into training batches."""
