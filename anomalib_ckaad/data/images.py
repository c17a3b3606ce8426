"""Looks at image files before they are trained on, and names the file where reading one fails."""

from collections.abc import Iterable
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch import Callback
from PIL import Image

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV"})


class ImageFileError(ValueError):
    """A training image is missing, unreadable, or of a kind that anomalib would damage in silence."""


def check_image_files(paths: Iterable[str | Path], *, may_be_empty: bool = False) -> None:
    """Read the header of every image; grey-scale, palette and RGBA images pass, as anomalib makes RGB of them.

    Headers cost a fraction of a millisecond each. A file that is cut off behind its header is found when it is read.

    Args:
        paths: Paths of the images.
        may_be_empty: Whether no image at all is fine, as it is for validation.

    Raises:
        ImageFileError: If there is none, or one is not an image, or has more than 8 bits a channel: anomalib cuts
            those to 8 bits without a word.
    """
    count = 0
    for path in paths:
        count += 1
        try:
            with Image.open(path) as image:
                mode = image.mode
        except (OSError, SyntaxError) as error:
            raise ImageFileError(_unreadable(path, error)) from error
        if mode not in EIGHT_BIT_MODES:
            msg = (
                f"Expected images of 8 bits a channel, got mode {mode} in {path}, which anomalib would cut to 8 bits. "
                "Do convert it to 8 bits with the range of intensities that matters."
            )
            raise ImageFileError(msg)
    if not count and not may_be_empty:
        msg = "Expected at least one training image, got none. Do check the data's root and normal_dir."
        raise ImageFileError(msg)


def _unreadable(path: str | Path, error: BaseException) -> str:
    return f"Expected a readable image, got {path} ({error}). Do replace or remove it."


def find_unreadable(paths: Iterable[str | Path]) -> str | None:
    """Decode images one by one until one fails, and say which and why; None if all are readable."""
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as error:
            return _unreadable(path, error)
    return None


def datamodule_of(trainer: pl.Trainer) -> pl.LightningDataModule | None:
    """The datamodule that a trainer works on, or None where it was given loaders."""
    return getattr(trainer, "datamodule", None)


class NameUnreadableImages(Callback):
    """Where reading an image ends a run, adds to the exception which file it was: Pillow does not tell."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Look for the file only once something has failed, so that it costs nothing otherwise."""
        del pl_module
        if not isinstance(exception, OSError | SyntaxError):
            return
        datamodule = datamodule_of(trainer)
        for subset in ("train_data", "val_data", "test_data"):
            samples = getattr(getattr(datamodule, subset, None), "samples", None)
            found = None if samples is None else find_unreadable(samples.image_path)
            if found:
                exception.add_note(found)
                return
