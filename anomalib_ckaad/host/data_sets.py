"""What anomalib's data sets do when an item is read."""

from anomalib.data import AnomalibDataset


def reads_as_anomalib(data: object) -> bool:
    """Whether a data set reads its items by anomalib's own method, which gives the same item each time."""
    return isinstance(data, AnomalibDataset) and type(data).__getitem__ is AnomalibDataset.__getitem__
