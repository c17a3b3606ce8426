"""The data sets of the paper, as datamodules of anomalib."""
