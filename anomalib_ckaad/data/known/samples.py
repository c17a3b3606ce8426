"""Samples of anomalib's data sets: rows of a table with image, label and mask of each image."""

from collections.abc import Iterable

from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from pandas import DataFrame


def set_samples(dataset: AnomalibDataset, samples: DataFrame, *, masks: bool = True) -> None:
    """Replace the samples of a data set.

    Args:
        dataset: Changed in place.
        samples: The new ones.
        masks: Whether masks are read as before; with False none are, even if the samples name some.
    """
    task = dataset.samples.attrs["task"] if masks else "classification"
    dataset.samples = samples.reset_index(drop=True)
    dataset.samples.attrs["task"] = task


def as_training_samples(known: DataFrame, columns: Iterable[str]) -> DataFrame:
    """Turn samples of known anomalies, from wherever, into training samples without masks.

    Args:
        known: Rows with ``image_path`` and ``type``.
        columns: Columns of the training samples.
    """
    rows = known.reindex(columns=list(dict.fromkeys([*columns, "type"])))
    rows = rows.assign(split="train", label_index=int(LabelName.ABNORMAL), mask_path="")
    return rows.astype({"label_index": "Int64"})
