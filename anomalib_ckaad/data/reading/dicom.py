"""Decoding of DICOM files: values in the unit they state, large for bright, and the window they state."""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from anomalib_ckaad.data.reading.intensities import Decoded, Limits, Values
from anomalib_ckaad.errors import ImageFileError, MissingPackageError, unreadable

DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})
DICOM_HEAD: Final = 132  # bytes of a file that tell whether it is DICOM
COLOR_CHANNELS: Final = 3
EIGHT_BITS: Final = 8


def has_dicom_magic(head: bytes) -> bool:
    """Whether a file that begins with these ``DICOM_HEAD`` bytes is DICOM."""
    return head[128:DICOM_HEAD] == b"DICM"


def decode_dicom(path: Path) -> Decoded:
    """Read the image of a DICOM file.

    Rescale slope and intercept, or the modality's table, are applied. MONOCHROME1 is inverted within the range of the
    stored bits, and so is its window. Padding becomes NaN. Color becomes RGB.

    Raises:
        ImageFileError: If the file is no DICOM, has no image or several, or is compressed in a way that nothing
            installed can decompress.
        MissingPackageError: If pydicom is not installed.
    """
    try:
        import pydicom  # noqa: PLC0415  # an extra
        from pydicom.pixels.processing import apply_color_lut, apply_modality_lut  # noqa: PLC0415
        from pydicom.pixels.utils import pixel_array  # noqa: PLC0415
    except ImportError as error:
        msg = f"Reading the DICOM file {path} needs pydicom. Run `pip install 'anomalib-ckaad[medical]'`."
        raise MissingPackageError(msg) from error
    data = pydicom.dcmread(path)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        msg = f"The DICOM file {path} holds no image. Replace or remove it."
        raise ImageFileError(msg)
    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1 or "PerFrameFunctionalGroupsSequence" in data:
        msg = f"{path} is multi-frame DICOM (frames: {frames}). Write each frame to a file of its own."
        raise ImageFileError(msg)
    try:
        stored: Values = pixel_array(data)
    except RuntimeError as error:  # pydicom has no plugin for it
        syntax = data.file_meta.TransferSyntaxUID.name
        msg = (
            f"pydicom cannot decompress {path}: nothing installed decodes {syntax}. "
            "Decompress the file, or install pylibjpeg with its plugin for that."
        )
        raise ImageFileError(msg) from error
    try:
        if data.PhotometricInterpretation == "PALETTE COLOR":
            colors: Values = apply_color_lut(stored, data)
            return Decoded(colors if colors.dtype == np.uint8 else (colors >> EIGHT_BITS).astype(np.uint8))
        if data.SamplesPerPixel == COLOR_CHANNELS:
            return Decoded(stored)
        return _monochrome(stored, apply_modality_lut(stored, data), data)
    except AttributeError as error:  # an element is missing
        raise ImageFileError(unreadable(path, error)) from error


def _monochrome(stored: Values, values: Values, data: Any) -> Decoded:  # noqa: ANN401 - pydicom may be missing
    window = _window(data)
    low, high = _range(stored, data)
    if stored.dtype == np.uint8 and data.BitsStored == EIGHT_BITS and np.array_equal(stored, values):
        values, low, high = stored, 0, 255
    else:
        values = values.astype(np.float64)
        values[_is_padding(stored, data)] = np.nan
    if data.PhotometricInterpretation == "MONOCHROME1":
        values = low + high - values
        window = None if window is None else (low + high - window[1], low + high - window[0])
    return Decoded(values, window)


def _window(data: Any) -> Limits | None:  # noqa: ANN401
    """First window, as the values that become black and white; None if there is none, or its width is 0.

    A sigmoid window is read as a linear one of the same center and width.
    """
    center, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    if data.get("VOILUTFunction", "LINEAR") == "LINEAR":  # PS3.3 C.11.2.1.2.1
        center, width = center - 0.5, width - 1
        return (center - width / 2, center + width / 2) if width >= 0 else None
    return (center - width / 2, center + width / 2) if width > 0 else None


def _first(value: Any) -> float | None:  # noqa: ANN401
    if value is None or isinstance(value, str):
        return None
    try:
        number = float(value)
    except TypeError:  # several windows
        number = float(value[0]) if len(value) else math.nan
    return number if math.isfinite(number) else None


def _range(stored: Values, data: Any) -> Limits:  # noqa: ANN401
    """Lowest and highest value that the file could hold, in its unit."""
    if data.get("ModalityLUTSequence"):
        return 0, 2 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    if stored.dtype.kind == "f":
        return 0, 0
    bits = int(data.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept


def _is_padding(stored: Values, data: Any) -> Values:  # noqa: ANN401
    """Where there is padding (H, W), from pixel padding value to pixel padding range limit."""
    value = data.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(stored.shape, bool)
    limit = data.get("PixelPaddingRangeLimit", value)
    within: Values = (stored >= min(value, limit)) & (stored <= max(value, limit))
    return within
