"""How long a training lasts, how often it is validated, and which of its epochs may be the ones that are kept."""

import math

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, Timer

from anomalib_ckaad.host.trainer import callbacks_of, datamodule_of, saves_after_every_epoch
from anomalib_ckaad.training.presets import PAPER_EPOCHS, PAPER_EPOCHS_ELSEWHERE

VALIDATIONS = 20
"""How often a training of few images is validated at least."""
OPTIMIZERS = 2
"""Lightning counts the steps of each: a batch is two at most."""


class TrainingLength(Callback):
    """Lets a training last as long as the preset says, unless the trainer has a limit of epochs or steps.

    A limit of time may end it before that.

    Args:
        steps: Training steps, rounded up to whole epochs; None for the paper's number of epochs.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps
        self._limited: tuple[int, int] | None = None  # the loop that was limited, and to how many epochs

    def attach(self, trainer: pl.Trainer | None) -> None:
        """Limit the epochs of a trainer without any limit, before Lightning sets its 1000."""
        loop = getattr(trainer, "fit_loop", None)
        if trainer is None or loop is None or self._limited == (id(loop), loop.max_epochs):
            return
        self._limited = None
        if loop.max_epochs is None and trainer.max_steps == -1:
            loop.max_epochs = paper_epochs(trainer)
            self._limited = id(loop), loop.max_epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turn the preset's number of steps into epochs."""
        del pl_module
        if self._limited is not None and self.steps is not None:
            epochs, between = schedule_of(self.steps, trainer.num_training_batches)
            trainer.fit_loop.max_epochs = epochs
            # Only where nobody asked for another number, nor for something that is measured after each epoch.
            is_asked_for = trainer.check_val_every_n_epoch != 1 or is_watched(trainer)
            if validates(trainer) and not is_asked_for:  # without, checkpoints are written after every epoch
                trainer.check_val_every_n_epoch = between


def paper_epochs(trainer: pl.Trainer) -> int:
    """The paper's number of epochs for the data of a trainer."""
    datamodule = datamodule_of(trainer)
    kind = type(getattr(datamodule, "data", datamodule)).__name__  # KnownAnomalies wraps what counts
    return PAPER_EPOCHS.get(kind, PAPER_EPOCHS_ELSEWHERE)


def schedule_of(steps: int, batches: float) -> tuple[int, int]:
    """How many epochs of so many batches have at least so many steps, and after how many of them to validate.

    An epoch of a few images is a step or two, and validation takes longer than that: some twenty are enough. The last
    epoch is validated, as thresholds come from there.

    Example:
        >>> schedule_of(400, batches=24), schedule_of(400, batches=3000), schedule_of(400, batches=3)
        ((17, 1), (1, 1), (138, 6))
    """
    epochs = max(1, math.ceil(steps / max(1, batches)))
    between = max(1, epochs // VALIDATIONS)
    return between * math.ceil(epochs / between), between


def describe_limit(trainer: pl.Trainer) -> str:
    """How long a training lasts, in words."""
    for number, unit in ((trainer.max_epochs, "epoch"), (trainer.max_steps, "step")):
        if number not in {None, -1}:
            return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
    return "as long as it is let"


def is_watched(trainer: pl.Trainer) -> bool:
    """Whether a callback may stop training after any epoch, or keep a checkpoint of another than the last."""
    return any(isinstance(one, EarlyStopping) or _may_keep_any(one) for one in callbacks_of(trainer))


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
    return is_watched(trainer) or any(isinstance(one, Timer) for one in callbacks_of(trainer))


def _may_keep_any(callback: Callback) -> bool:
    if not isinstance(callback, ModelCheckpoint):
        return isinstance(callback, Checkpoint) and getattr(callback, "monitor", None) is not None
    return callback.monitor is not None or not saves_after_every_epoch(callback) or callback.save_top_k not in {0, 1}
