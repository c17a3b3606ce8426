"""Conversion of one image file by a rule, and what to say about it."""

import io
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_ckaad.data.reading.decoding import DICOM, TURNED, Reason, decode
from anomalib_ckaad.data.reading.dicom import DICOM_SUFFIXES
from anomalib_ckaad.data.reading.intensities import (
    PERCENTILES,
    PIXELS_OF_ALL,
    PIXELS_OF_AN_IMAGE,
    IntensityRule,
    Values,
    plain,
    sample_pixels,
    to_eight_bits,
)

IMAGE_SUFFIXES: Final = frozenset({*IMG_EXTENSIONS, *DICOM_SUFFIXES})


def base_name(path: Path) -> str:
    """Name without the ending of an image file; DICOM files are often named by numbers with points in them.

    Example:
        >>> base_name(Path("a.dcm")), base_name(Path("1.2.840"))
        ('a', '1.2.840')
    """
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def find_dataset_limits(rule: IntensityRule, paths: Sequence[Path]) -> IntensityRule:
    """Let a rule over the data set find low and high; any other is returned as it is.

    Args:
        rule: The rule.
        paths: Normal images; those that keep their values or state a window of their own are passed over.
    """
    if not rule.needs_dataset:
        return rule
    at_most = max(1, min(PIXELS_OF_AN_IMAGE, PIXELS_OF_ALL // max(1, len(paths))))
    samples = []
    for path in paths:
        image = decode(path)
        if not image.has_eight_bits and image.window is None:
            samples.append(sample_pixels(image.values, at_most))
    return rule.with_dataset(samples)


def write_converted(source: Path, target: Path, rule: IntensityRule) -> None:
    """Write an image as an upright PNG of 8 bits, whole or not at all.

    Raises:
        ImageFileError: If it cannot be read.
        IntensityError: If the rule has no low and high for it.
    """
    image = decode(source)
    write_png(to_eight_bits(image.values, rule.limits(image)), target)


def write_png(values: Values, target: Path) -> None:
    """Write values of 8 bits (H, W) or (H, W, 3) as a PNG, whole or not at all."""
    content = io.BytesIO()
    Image.fromarray(values).save(content, format="PNG")
    write_whole(content.getvalue(), target)


def write_whole(content: bytes, target: Path) -> None:
    """Write a file under another name and rename it, so that no other process reads half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def command_for_more(rule: IntensityRule, reasons: Iterable[Reason]) -> str:
    """Return the command that converts other images likewise.

    Example:
        >>> command_for_more(IntensityRule((100, 4000)), ["more than 8 bits a channel"])
        '`anomalib-ckaad convert FOLDER TARGET --intensities=100,4000`'
    """
    options = ""
    numbers = rule.dataset if isinstance(rule.intensities, str) else rule.intensities
    if numbers is not None:
        options = f" --intensities={','.join(map(plain, numbers))}"  # = as a negative low looks like an option
    elif set(reasons) - {TURNED}:
        options = " --intensities image"
        if rule.intensities == "image" and rule.percentiles != PERCENTILES:
            options += f" --percentiles {','.join(map(plain, rule.percentiles))}"
    command = f"`anomalib-ckaad convert FOLDER TARGET{options}`"
    if rule.dataset is not None and DICOM in set(reasons):
        command += " (DICOM that states a window: `--intensities image`)"
    return command


def describe_rule(rule: IntensityRule, reasons: Iterable[Reason], over: str = "normal") -> str:
    """Say in plain words which low and high were taken, and ``over`` which images percentiles were.

    Example:
        >>> describe_rule(IntensityRule(dataset=(3.0, 8.5)), ["more than 8 bits a channel"])
        'low 3 and high 8.5, percentiles 0.5 and 99.5 of normal images'
    """
    kinds = set(reasons)
    if not kinds - {TURNED}:
        return "their values as they were"
    first, last = map(plain, rule.percentiles)
    if not isinstance(rule.intensities, str):
        low, high = map(plain, rule.intensities)
        return f"low {low} and high {high}, as given"
    window = "the window that DICOM states, else " if DICOM in kinds else ""
    if rule.dataset is not None:
        low, high = map(plain, rule.dataset)
        return f"{window}low {low} and high {high}, percentiles {first} and {last} of {over} images"
    if rule.intensities == "image":
        return f"{window}percentiles {first} and {last} of each image as low and high"
    return "the window that DICOM states as low and high"


def count_reasons(reasons: Iterable[Reason]) -> str:
    """Count images by why they are converted.

    Example:
        >>> count_reasons(["DICOM", "turned by EXIF", "DICOM"])
        '2 DICOM, 1 turned by EXIF'
    """
    return ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(reasons).items()))
