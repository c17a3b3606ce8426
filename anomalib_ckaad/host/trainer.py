"""What a Lightning trainer knows and offers no method for."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy


def datamodule_of(trainer: pl.Trainer) -> pl.LightningDataModule | None:
    """The datamodule that a trainer works on, or None where it was given loaders."""
    return getattr(trainer, "datamodule", None)


def attached_datamodule(module: pl.LightningModule) -> pl.LightningDataModule | None:
    """The datamodule of the trainer that a model is attached to, or None where there is neither."""
    return None if module._trainer is None else datamodule_of(module._trainer)


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """All callbacks of a trainer, the model's own among them."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    return found


def saves_after_every_epoch(callback: ModelCheckpoint) -> bool:
    """Whether a checkpoint may be written after each epoch, not after some of them alone."""
    return callback._every_n_epochs == 1


def find_unused_parameters(trainer: pl.Trainer) -> None:
    """Let DDP expect parameters without a gradient: each loss of CKAAD reaches one of two networks only.

    The user's own choice stays. Call this before the strategy wraps the model.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
