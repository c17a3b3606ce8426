"""``anomalib-ckaad convert``: 16-bit, DICOM and rotated images as images that anomalib reads correctly."""

from collections.abc import Sequence
from pathlib import Path

from anomalib_ckaad.cli.values import black_and_white, pair


def convert(
    source: Path,
    target: Path,
    *,
    intensities: str = "dataset",
    percentiles: str = "0.5,99.5",
    normal: Sequence[str] = (),
    masks: Sequence[str] = (),
) -> int:
    """Convert 16-bit, DICOM and rotated images to images that anomalib reads correctly.

    Args:
        source: A folder of images, with or without subfolders.
        target: A new folder; it gets the same subfolders.
        intensities: What becomes black and white. LOW,HIGH: these values (with a negative LOW write
            --intensities=-100,400). ``dataset`` or ``image``: the window that a DICOM file states, else percentiles of
            all images together (``dataset``) or of each image (``image``).
        percentiles: Low and high percentile, in percent.
        normal: Subfolders of SOURCE with normal images: only these count for the percentiles of ``dataset``.
        masks: Subfolders of SOURCE that are copied as they are.
    """
    rule, limits = black_and_white(intensities, "--intensities"), pair(percentiles, "--percentiles")
    from anomalib_ckaad.data.reading.convert_folder import convert_folder

    print(convert_folder(source, target, rule, limits, normal, masks))
    return 0
