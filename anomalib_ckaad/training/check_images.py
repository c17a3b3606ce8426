"""Looks at image files before they are used, and names the file where reading one fails."""

from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch import Callback

from anomalib_ckaad.data.reading.image_files import check_image_files, find_unreadable, warn_of_sizes, warn_of_turned
from anomalib_ckaad.errors import ImageFileError
from anomalib_ckaad.host.trainer import datamodule_of

CHECKED = ("train_data", "val_data", "test_data")
"""Data sets whose images are looked at before a training or a test; known anomalies were when they were chosen."""


class CheckImages(Callback):
    """Refuses images that anomalib would misread, before anything is computed with them."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look at the headers of a datamodule's images: in training at all of them, those of the test included.

        Raises:
            ImageFileError: If there is no training image, or anomalib would misread one.
        """
        del pl_module
        turned, scored = [], []
        datamodule = datamodule_of(trainer)
        for subset in CHECKED:
            samples = getattr(getattr(datamodule, subset, None), "samples", None)
            if samples is not None and (stage == "fit" or subset == "test_data"):
                turned += check_image_files(samples.image_path, may_be_empty=subset != "train_data")
                scored += list(samples.image_path) if subset != "train_data" else []
        warn_of_turned(turned)
        warn_of_sizes(scored, getattr(datamodule, "eval_batch_size", 1))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the images of a folder; those of a datamodule were looked at in ``setup``.

        Raises:
            ImageFileError: If anomalib would misread one.
        """
        del pl_module
        loaders = trainer.predict_dataloaders
        for loader in loaders if isinstance(loaders, Sequence) else [loaders]:
            names = getattr(getattr(loader, "dataset", None), "image_filenames", ())
            warn_of_turned(check_image_files(names, may_be_empty=True))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Add to an error of reading which file it was, as Pillow does not tell; costs nothing unless one fails."""
        del pl_module
        if not isinstance(exception, OSError | SyntaxError):
            return
        datamodule = datamodule_of(trainer)
        for subset in (*CHECKED, "known_data"):
            samples = getattr(getattr(datamodule, subset, None), "samples", None)
            found = None if samples is None else find_unreadable(samples.image_path)
            if found:
                exception.add_note(found)
                exception.__cause__ = ImageFileError(found)  # so that commands find it by its class
                return
