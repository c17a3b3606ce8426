"""Which epochs of a training may be the ones that are kept: those need a calibrated map."""

from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, Timer

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

OPTIMIZERS = 2
"""Lightning counts the steps of each: a batch is two at most."""


def is_watched(trainer: pl.Trainer) -> bool:
    """Whether a callback may stop training after any epoch, or keep a checkpoint of another than the last."""
    return any(isinstance(one, EarlyStopping) or _may_keep_any(one) for one in _callbacks(trainer))


def validates(trainer: pl.Trainer) -> bool:
    """Whether the training that runs has validation images."""
    return sum(trainer.num_val_batches) > 0


def may_be_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether training may end with this epoch, or this epoch's checkpoint may be the one that is kept."""
    return _may_end_within(trainer, epochs=1, steps=0)


def may_be_last_validation(trainer: pl.Trainer) -> bool:
    """Whether training may end before the next validation, or this epoch's checkpoint may be the one that is kept."""
    every = trainer.check_val_every_n_epoch
    if every is None or trainer.val_check_batch is None:
        return True  # by batches of all epochs, or by the clock: the next one may not come
    return _may_end_within(trainer, every, OPTIMIZERS * every * trainer.num_training_batches)


def _may_end_within(trainer: pl.Trainer, epochs: int, steps: float) -> bool:
    limits_epochs = trainer.max_epochs is not None and trainer.max_epochs > 0
    limits_steps = trainer.max_steps != -1
    if trainer.should_stop or not (limits_epochs or limits_steps):
        return True
    if limits_epochs and trainer.current_epoch + epochs >= (trainer.max_epochs or 0):
        return True
    if limits_steps and trainer.global_step + steps >= trainer.max_steps:
        return True
    return is_watched(trainer) or any(isinstance(one, Timer) for one in _callbacks(trainer))


def _may_keep_any(callback: "Callback") -> bool:
    if not isinstance(callback, ModelCheckpoint):
        return isinstance(callback, Checkpoint) and getattr(callback, "monitor", None) is not None
    is_usual = callback._every_n_epochs == 1 and callback.save_top_k in {0, 1}  # noqa: SLF001 - no other way to know
    return callback.monitor is not None or not is_usual


def _callbacks(trainer: pl.Trainer) -> "list[Callback]":
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    return found
