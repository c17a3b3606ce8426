"""Which files are images, by the endings of their names, and lists of those in a folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_ckaad.data.reading.dicom import DICOM_SUFFIXES

ANOMALIB_SUFFIXES: Final = frozenset(IMG_EXTENSIONS)
"""Image files that anomalib's data sets look for."""
IMAGE_SUFFIXES: Final = ANOMALIB_SUFFIXES | DICOM_SUFFIXES
"""Image files that this package can read."""


def images_below(folder: Path, suffixes: Collection[str] = ANOMALIB_SUFFIXES) -> list[Path]:
    """List the images in a folder and in all folders inside it, in the order in which anomalib pairs them with masks.

    Args:
        folder: Where to look; a folder that does not exist has no images.
        suffixes: Endings of image files, in lower case.
    """
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def images_in(folder: Path) -> list[Path]:
    """List the images directly in a folder, by name, without the hidden files that macOS adds to archives."""
    return sorted(path for path in folder.iterdir() if _is_visible_image(path))


def has_images(folder: Path) -> bool:
    """Whether ``images_in`` would list any; the first one is enough to know."""
    return any(map(_is_visible_image, folder.iterdir()))


def base_name(path: Path) -> str:
    """Name without the ending of an image file; DICOM files are often named by numbers with points in them.

    Example:
        >>> base_name(Path("a.dcm")), base_name(Path("1.2.840"))
        ('a', '1.2.840')
    """
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def _is_visible_image(path: Path) -> bool:
    return path.suffix.lower() in ANOMALIB_SUFFIXES and not path.name.startswith(".")
