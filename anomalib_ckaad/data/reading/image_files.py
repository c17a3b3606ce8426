"""Looks at image files before they are trained on, and names the file where reading one fails."""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch import Callback
from PIL import Image

from anomalib_ckaad.data.reading.decoding import TURNED, needs_conversion
from anomalib_ckaad.errors import ImageFileError, unreadable

logger = logging.getLogger(__name__)


def check_image_files(paths: Iterable[str | Path], *, may_be_empty: bool = False) -> list[str]:
    """Read the header of every image; grey-scale, palette and RGBA images pass, as anomalib makes RGB of them.

    Headers cost a fraction of a millisecond each. A file that is cut off behind its header is found when it is read.

    Args:
        paths: Paths of the images.
        may_be_empty: Whether no image at all is fine, as it is for validation.

    Returns:
        Images that lie on a side, as EXIF turns them but anomalib does not.

    Raises:
        ImageFileError: If there is none, or one is not an image, is DICOM, or has more than 8 bits a channel: anomalib
            cuts those to 8 bits without a word.
    """
    count = 0
    turned = []
    for path in paths:
        count += 1
        reason = needs_conversion(path)
        if reason == TURNED:
            turned.append(str(path))
        elif reason is not None:
            msg = (
                f"Expected images of 8 bits a channel, got {reason} in {path}, which anomalib would misread. "
                "Do convert them by `anomalib-ckaad convert FOLDER TARGET`, those to predict with the --intensities of "
                "the training, or wrap the data in KnownAnomalies."
            )
            raise ImageFileError(msg)
    if not count and not may_be_empty:
        msg = "Expected at least one training image, got none. Do check the data's root and normal_dir."
        raise ImageFileError(msg)
    return turned


def warn_of_turned(paths: Iterable[str]) -> None:
    """Warn once of images that anomalib reads as they lie; a model can be trained on them, but not on half of them."""
    found = sorted(set(paths))
    if found:
        logger.warning(
            "Images turned by EXIF, which anomalib does not look at: %d, such as %s. `anomalib-ckaad convert FOLDER "
            "TARGET`, or KnownAnomalies around the data, makes them upright.",
            *(len(found), found[0]),
        )


def warn_of_sizes(paths: Iterable[str], batch_size: int) -> None:
    """Warn of images of different sizes in one batch, which anomalib stretches to a common one before they are scored.

    Looks at two hundred of them, evenly spread.
    """
    found = list(paths)
    sizes = set()
    for path in found[:: max(1, len(found) // 200)] if batch_size > 1 else []:
        with contextlib.suppress(OSError), Image.open(path) as image:
            sizes.add(image.size)
    if len(sizes) > 1:
        logger.warning(
            "Images to validate or test on have different sizes, and anomalib stretches those of one batch to a common "
            "one: scores differ a little from those of single images. Do set eval_batch_size to 1 for exact ones."
        )


def find_unreadable(paths: Iterable[str | Path]) -> str | None:
    """Decode images one by one until one fails, and say which and why; None if all are readable."""
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as error:
            return unreadable(path, error)
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
                exception.__cause__ = ImageFileError(found)  # so that commands find it by its class
                return
