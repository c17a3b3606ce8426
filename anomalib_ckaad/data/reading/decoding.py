"""Decoding of image files at full precision, and which of them anomalib would misread."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import tifffile
from PIL import Image

from anomalib_ckaad.data.reading.dicom import DICOM_HEAD, DICOM_SUFFIXES, decode_dicom, has_dicom_magic
from anomalib_ckaad.data.reading.intensities import Decoded, Values
from anomalib_ckaad.errors import CkaadError, ImageFileError, unreadable

Reason = Literal["more than 8 bits per channel", "turned by EXIF", "DICOM"]
DEEP: Final[Reason] = "more than 8 bits per channel"
TURNED: Final[Reason] = "turned by EXIF"
DICOM: Final[Reason] = "DICOM"

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV"})
GREY_MODES = frozenset({"1", "L", "LA", "La"})
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION_TAG = 0x0112
UPRIGHT = 1
# Orientations 2 to 8: quarter turns against the clock, then whether left and right change places.
TURNS: Final = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
SIDEWAYS: Final = frozenset({5, 6, 7, 8})
EIGHT_BITS = 8
COLORS = 3
TIFF_FLOAT = 3


def needs_conversion(path: str | Path) -> Reason | None:
    """Why anomalib would misread an image file; None if it would not. Reads headers only.

    Grayscale, palette, RGBA and CMYK images of 8 bits need nothing: anomalib makes RGB of them, without their alpha.

    Raises:
        ImageFileError: If the file is missing, or no image.
    """
    reason, orientation = _headers(Path(path))
    return reason or (TURNED if orientation != UPRIGHT else None)


def orientation_of(path: str | Path) -> int:
    """Orientation, 1 to 8 as EXIF counts them, that anomalib's reading leaves in an image.

    Raises:
        ImageFileError: If the file is missing, or no image.
    """
    return _headers(Path(path))[1]


def _headers(path: Path) -> tuple[Reason | None, int]:
    """Whether the values are DICOM's or of more than 8 bits, and the orientation."""
    with _errors_naming(path):
        container = _container(path)
        if container == "DICOM":
            return DICOM, UPRIGHT
        if container == "TIFF":
            with tifffile.TiffFile(path) as file:
                page = file.pages.first
                return DEEP if _has_deep_samples(page) else None, _tiff_orientation(page)
        with Image.open(path) as image:
            return DEEP if _is_deep(image) else None, _exif_orientation(image)


def decode(path: str | Path) -> Decoded:
    """Read an image file at full precision, upright, without alpha.

    Raises:
        ImageFileError: If it cannot be read, has several images in it, is neither grayscale nor RGB, or has no finite
            value.
        MissingPackageError: If it is DICOM and pydicom is not installed.
    """
    path = Path(path)
    with _errors_naming(path):
        decoded = _decode(path)
    if not np.isfinite(decoded.values).any():
        msg = f"The image {path} has no finite intensity. Replace or remove it."
        raise ImageFileError(msg)
    return decoded


def upright(values: Values, orientation: int) -> Values:
    """Undo an orientation of EXIF.

    Args:
        values: (H, W) or (H, W, C).
        orientation: 1 to 8.

    Example:
        >>> upright(np.array([[1, 2], [3, 4]]), 6).tolist()
        [[3, 1], [4, 2]]
    """
    if orientation == UPRIGHT:
        return values
    turns, mirrored = TURNS[orientation]
    turned = np.rot90(values, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Turn any error of a decoder into one that names the file."""
    try:
        yield
    except CkaadError:
        raise
    except Exception as error:
        raise ImageFileError(unreadable(path, error)) from error


def _container(path: Path) -> Literal["DICOM", "TIFF", "any other"]:
    with path.open("rb") as file:
        head = file.read(DICOM_HEAD)
    if path.suffix.lower() in DICOM_SUFFIXES or has_dicom_magic(head):
        return "DICOM"
    return "TIFF" if head.startswith(TIFF_MAGIC) else "any other"


def _is_deep(image: Image.Image) -> bool:
    if image.mode not in EIGHT_BIT_MODES:
        return True
    # Pillow opens RGB images of 16 bits as mode RGB; only the arguments of its decoder tell what the file holds.
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    if image.format == "PPM" and isinstance(arguments, tuple):
        return any(isinstance(value, int) and value >= 1 << EIGHT_BITS for value in arguments)
    return ";16" in str(arguments)


def _has_deep_samples(page: tifffile.TiffPage) -> bool:
    return int(np.max(page.bitspersample)) > EIGHT_BITS or page.sampleformat == TIFF_FLOAT


def _tiff_orientation(page: tifffile.TiffPage) -> int:
    """Orientation that Pillow leaves; it turns TIFF itself, but scrambles uncompressed files that lie on their side."""
    orientation = _known_orientation(page.tags.valueof(ORIENTATION_TAG))
    is_scrambled = page.compression == tifffile.COMPRESSION.NONE and orientation in SIDEWAYS
    return orientation if is_scrambled or _has_deep_samples(page) else UPRIGHT


def _exif_orientation(image: Image.Image) -> int:
    # TIFF is handled elsewhere. To find EXIF behind the pixels of a PNG, Pillow would decode all of it.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return UPRIGHT
    try:
        return _known_orientation(image.getexif().get(ORIENTATION_TAG))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # damaged EXIF, whole image
        return UPRIGHT


def _known_orientation(value: object) -> int:
    return value if isinstance(value, int) and value in TURNS else UPRIGHT


def _decode(path: Path) -> Decoded:
    container = _container(path)
    if container == "DICOM":
        return decode_dicom(path)
    orientation, source = UPRIGHT, io.BytesIO(path.read_bytes())
    if container == "TIFF":
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            orientation = _tiff_orientation(page)
            if _has_deep_samples(page):
                return Decoded(upright(_decode_tiff(path, file), orientation))
            if orientation != UPRIGHT:  # hide it from Pillow
                tag = page.tags[ORIENTATION_TAG]
                source.seek(tag.valueoffset)
                source.write(UPRIGHT.to_bytes(tag.valuebytecount, "big" if file.byteorder == ">" else "little"))
                source.seek(0)
    with Image.open(source) as image:
        orientation = max(orientation, _exif_orientation(image))
        is_deep = _is_deep(image)
        image.load()  # fails for a truncated file, whose rest OpenCV may fill with black
        if is_deep and image.format in {"PNG", "PPM"} and image.mode != "F":
            values = _decode_by_opencv(path, source)
        elif is_deep:
            values = np.asarray(image)
        else:
            values = np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    return Decoded(upright(values, orientation))


def _decode_by_opencv(path: Path, source: io.BytesIO) -> Values:
    values = cv2.imdecode(np.frombuffer(source.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        msg = f"Cannot read the image {path} (OpenCV cannot decode it). Replace or remove it."
        raise ImageFileError(msg)
    return values if values.ndim == 2 else values[..., 2::-1]  # noqa: PLR2004  # BGR and BGRA to RGB


def _decode_tiff(path: Path, file: tifffile.TiffFile) -> Values:
    pages = [
        page for page in file.pages if not getattr(page, "is_reduced", False)
    ]  # a small copy for viewers is no image of its own
    page = file.pages.first
    if len(pages) > 1:
        msg = f"{path} holds {len(pages)} images (pages). Write each of them to a file of its own."
        raise ImageFileError(msg)
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    colors = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": COLORS}.get(photometric.name, 0)
    if page.samplesperpixel not in {colors, colors + 1} or not colors or page.imagedepth > 1:  # one more is alpha
        msg = (
            f"{path} is neither grayscale nor RGB, but {photometric.name} with {page.samplesperpixel} channels. "
            "Convert it to one of the two."
        )
        raise ImageFileError(msg)
    values: Values = page.asarray()
    if page.samplesperpixel > 1:
        values = np.moveaxis(values, page.axes.index("S"), -1)[..., :colors]
    if colors == 1:
        values = values.reshape(page.imagelength, page.imagewidth)
    if photometric.name == "MINISWHITE":
        values = (1 << page.bitspersample) - 1 - values if values.dtype.kind == "u" else -values.astype(np.float64)
    return values
