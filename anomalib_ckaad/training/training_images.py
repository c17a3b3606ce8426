"""The training images once more, in their order: the map is calibrated on them before a training ends."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import AnomalibDataset, ImageBatch
from anomalib.data.utils import LabelName
from torch.utils.data import DataLoader, IterableDataset, Subset

from anomalib_ckaad.distributed import rank_and_count
from anomalib_ckaad.errors import DataError
from anomalib_ckaad.features.transforms import describe_transform
from anomalib_ckaad.host.trainer import datamodule_of
from anomalib_ckaad.training.read_once import ReadOnce

MOST_IMAGES = 2000
"""Largest number of images to calibrate on, spread over the training set: more hardly change the moments."""
BATCH_SIZE = 32


def check_can_be_read_again(trainer: pl.Trainer) -> None:
    """Refuse training data whose images cannot be looked up by number once more.

    Raises:
        DataError: If they are an iterable data set, or have no length.
    """
    dataset = _training_data(trainer)
    if dataset is not None and (isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__")):
        msg = (
            f"The map cannot be calibrated on {type(dataset).__name__}, which has no length or no images by number. "
            "Train on a data set that has both, or turn calibration off with `research: {calibrate: false}`."
        )
        raise DataError(msg)


def normal_batches(trainer: pl.Trainer, at_most: int = MOST_IMAGES) -> Iterator[ImageBatch]:
    """Batches of training images, spread over them, on the model's device; each process gets its share.

    All of them are normal unless the data's own training images are not. They are augmented as the images that will be
    scored. No global random numbers are drawn, so that training goes on as it would have.
    """
    dataset = _training_data(trainer)
    if dataset is not None:
        # At least one image: sums are added up by all processes or none.
        yield from _batches(trainer, dataset, range(len(dataset)), at_most, at_least_one=True)


def count_normal(trainer: pl.Trainer) -> int:
    """Number of normal training images; all images where only batches have labels."""
    dataset = _training_data(trainer)
    labels = getattr(getattr(dataset, "samples", None), "label_index", None)
    if labels is not None:
        return sum(label == LabelName.NORMAL for label in labels)
    return 0 if dataset is None else len(dataset)


def _training_data(trainer: pl.Trainer) -> Any:  # noqa: ANN401 - any data
    dataset = getattr(datamodule_of(trainer), "train_data", None)
    return getattr(trainer.train_dataloader, "dataset", None) if dataset is None else dataset


def batches_of_known(trainer: pl.Trainer, at_most: int) -> Iterator[ImageBatch]:
    """Batches with the known anomalies, as ``normal_batches``. If only batches have labels, all training batches."""
    data = datamodule_of(trainer)
    known, own = getattr(data, "known_data", None), getattr(data, "train_data", None)
    labels = getattr(getattr(own, "samples", None), "label_index", None)
    if known is not None:
        yield from _batches(trainer, known, range(len(known)), at_most)
    elif labels is not None:
        yield from _batches(trainer, own, (labels == LabelName.ABNORMAL).to_numpy().nonzero()[0].tolist(), at_most)
    else:
        yield from normal_batches(trainer)  # the known ones may be anywhere


def _batches(
    trainer: pl.Trainer,
    dataset: Any,  # noqa: ANN401 - any data
    chosen: Sequence[int],
    at_most: int,
    *,
    at_least_one: bool = False,
) -> Iterator[ImageBatch]:
    rank, world = rank_and_count()
    count = min(len(chosen), at_most)
    spread = [chosen[place * len(chosen) // count] for place in range(count)]
    own = list(spread[rank::world])
    if not own and at_least_one:
        own = list(spread[:1])
    loader = trainer.train_dataloader
    scored = _as_scored(trainer, dataset)
    usual = getattr(loader, "collate_fn", None) if getattr(loader, "dataset", None) is dataset else None
    collate = getattr(dataset, "collate_fn", usual)
    # No more at once than are scored at once: whole images may be far larger than what is trained on.
    size = min(BATCH_SIZE, getattr(datamodule_of(trainer), "eval_batch_size", BATCH_SIZE))
    with torch.random.fork_rng(devices=[]):
        for batch in DataLoader(Subset(scored, own), size, collate_fn=collate, generator=torch.Generator()):
            yield trainer.strategy.batch_to_device(batch)


def _as_scored(trainer: pl.Trainer, dataset: Any) -> Any:  # noqa: ANN401 - any data
    """The same images with the augmentations of test images: what is random in training would count as usual."""
    own = dataset.data if isinstance(dataset, ReadOnce) else dataset
    test: Any = getattr(datamodule_of(trainer), "test_data", None)
    if not isinstance(own, AnomalibDataset) or not hasattr(test, "augmentations"):
        return dataset
    if _described(own.augmentations) == _described(test.augmentations):
        return dataset
    found = copy.copy(own)
    found.augmentations = test.augmentations
    return found


def _described(augmentations: object) -> str:
    return "none" if augmentations is None else describe_transform(augmentations)
