"""Conversion of one image file by a rule to an upright PNG file of 8 bits."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from anomalib_ckaad.data.reading.decoding import decode
from anomalib_ckaad.data.reading.intensities import (
    PIXELS_OF_ALL,
    PIXELS_OF_AN_IMAGE,
    IntensityRule,
    Values,
    sample_pixels,
    to_eight_bits,
)
from anomalib_ckaad.files import written_whole


def find_dataset_limits(rule: IntensityRule, paths: Sequence[Path]) -> IntensityRule:
    """Find low and high of the data set for a rule that needs them; any other rule is returned as it is.

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
    with written_whole(target) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")
