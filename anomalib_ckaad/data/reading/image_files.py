"""Checks of image files before a training or a test, and which file it was that could not be read."""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from anomalib_ckaad.data.reading.decoding import TURNED, needs_conversion
from anomalib_ckaad.errors import ImageFileError, unreadable

logger = logging.getLogger(__name__)


def check_image_files(paths: Iterable[str | Path], *, may_be_empty: bool = False) -> list[str]:
    """Read the header of every image; grayscale, palette and RGBA images pass, as anomalib makes RGB of them.

    Headers cost a fraction of a millisecond each. A file that is cut off behind its header is found when it is read.

    Args:
        paths: Paths of the images.
        may_be_empty: Whether no image at all is fine, as it is for validation.

    Returns:
        Images with an EXIF orientation, which anomalib ignores.

    Raises:
        ImageFileError: If there is none, or one is not an image, is DICOM, or has more than 8 bits per channel, which
            anomalib cuts to 8 bits in silence.
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
                f"anomalib would misread {path} ({reason}). Convert the images with `anomalib-ckaad convert FOLDER "
                "TARGET` (images to predict on with the `--intensities` of the training), or wrap the data in "
                "KnownAnomalies."
            )
            raise ImageFileError(msg)
    if not count and not may_be_empty:
        msg = "There are no training images. Check the `root` and `normal_dir` of the data."
        raise ImageFileError(msg)
    return turned


def warn_of_turned(paths: Iterable[str]) -> None:
    """Warn once of images whose EXIF orientation anomalib ignores: harmless if all images have the same."""
    found = sorted(set(paths))
    if found:
        logger.warning(
            "anomalib ignores the EXIF orientation of images; here of %d, such as %s. To make them upright, run "
            "`anomalib-ckaad convert FOLDER TARGET`, or wrap the data in KnownAnomalies.",
            *(len(found), found[0]),
        )


def warn_of_sizes(paths: Iterable[str], batch_size: int) -> None:
    """Warn of images of different sizes in one batch: anomalib stretches them to a common size before they are scored.

    Looks at 200 of them, evenly spread.
    """
    found = list(paths)
    sizes = set()
    for path in found[:: max(1, len(found) // 200)] if batch_size > 1 else []:
        with contextlib.suppress(OSError), Image.open(path) as image:
            sizes.add(image.size)
    if len(sizes) > 1:
        logger.warning(
            "The validation or test images differ in size. anomalib stretches the images of a batch to a common size, "
            "so scores differ a little from those of single images. Set `eval_batch_size` to 1 for exact scores."
        )


def find_unreadable(paths: Iterable[str | Path]) -> str | None:
    """Decode images one by one until one fails, and say which one and why; None if all are readable."""
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as error:
            return unreadable(path, error)
    return None
