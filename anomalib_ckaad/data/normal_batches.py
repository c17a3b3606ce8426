"""Normal training images once more in their order, for what is measured of them before a training ends."""

from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from torch import distributed
from torch.utils.data import DataLoader, Subset

from anomalib_ckaad.data.images import datamodule_of

LARGEST_SHARE = 2000
"""Images to measure at most, spread over the training set: moments of so many hardly change with more."""
BATCH_SIZE = 32


def may_be_last_epoch(trainer: pl.Trainer, ahead: int = 1) -> bool:
    """Whether training may end within so many epochs, or this epoch's checkpoint may be the one that is kept."""
    ends = trainer.max_epochs is not None and trainer.current_epoch + ahead >= trainer.max_epochs > 0
    if trainer.should_stop or ends:
        return True
    if trainer.max_epochs == -1 or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps):
        return True
    return any(
        isinstance(one, EarlyStopping | Timer) or (isinstance(one, Checkpoint) and getattr(one, "monitor", None))
        for one in trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    )


def normal_batches(trainer: pl.Trainer) -> Iterator[ImageBatch]:
    """Batches of normal training images on the model's device; each of several processes gets its share.

    No global random numbers are drawn, so that training goes on as it would have.
    """
    dataset = getattr(datamodule_of(trainer), "train_data", None)
    if dataset is None:
        dataset = getattr(trainer.train_dataloader, "dataset", None)
    if dataset is None:
        return
    collate = getattr(dataset, "collate_fn", None)
    step = max(1, -(-len(dataset) // LARGEST_SHARE))
    rank, world = (
        (distributed.get_rank(), distributed.get_world_size())
        if distributed.is_available() and distributed.is_initialized()
        else (0, 1)
    )
    indices = list(range(0, len(dataset), step))
    chosen = Subset(dataset, indices[rank::world] or indices[:1])  # sums are added up by all processes or none
    with torch.random.fork_rng(devices=[]):
        for batch in DataLoader(chosen, BATCH_SIZE, collate_fn=collate, generator=torch.Generator()):
            yield trainer.strategy.batch_to_device(batch)
