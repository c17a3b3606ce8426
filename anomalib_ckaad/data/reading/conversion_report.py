"""What a conversion of images did, in words, and the command that does the same to new images."""

from collections import Counter
from collections.abc import Iterable

from anomalib_ckaad.data.reading.decoding import DICOM, TURNED, Reason
from anomalib_ckaad.data.reading.intensities import PERCENTILES, IntensityRule, plain


def describe_rule(rule: IntensityRule, reasons: Iterable[Reason], over: str = "normal") -> str:
    """Say which low and high were used.

    Args:
        rule: The rule that was used.
        reasons: Why the images were converted.
        over: Which images the percentiles of the data set were taken of.

    Example:
        >>> describe_rule(IntensityRule(dataset=(3.0, 8.5)), ["more than 8 bits per channel"])
        'low 3 and high 8.5 (percentiles 0.5 and 99.5 of normal images)'
    """
    kinds = set(reasons)
    if not kinds - {TURNED}:
        return "unchanged values"
    first, last = map(plain, rule.percentiles)
    if not isinstance(rule.intensities, str):
        low, high = map(plain, rule.intensities)
        return f"low {low} and high {high}, as given"
    window = "the window stored in DICOM files, otherwise " if DICOM in kinds else ""
    if rule.dataset is not None:
        low, high = map(plain, rule.dataset)
        return f"{window}low {low} and high {high} (percentiles {first} and {last} of {over} images)"
    if rule.intensities == "image":
        return f"{window}percentiles {first} and {last} of each image as low and high"
    return "the window stored in DICOM files as low and high"


def count_reasons(reasons: Iterable[Reason]) -> str:
    """Count images by why they are converted.

    Example:
        >>> count_reasons(["DICOM", "turned by EXIF", "DICOM"])
        '2 DICOM, 1 turned by EXIF'
    """
    return ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(reasons).items()))


def how_to_convert_more(rule: IntensityRule, reasons: Iterable[Reason]) -> str:
    """Say which command converts new images in the same way.

    Example:
        >>> how_to_convert_more(IntensityRule((100, 4000)), ["more than 8 bits per channel"])
        'To convert new images in the same way, run `anomalib-ckaad convert FOLDER TARGET --intensities=100,4000`.'
    """
    options = ""
    numbers = rule.dataset if isinstance(rule.intensities, str) else rule.intensities
    if numbers is not None:
        options = f" --intensities={','.join(map(plain, numbers))}"  # = as a negative low looks like an option
    elif set(reasons) - {TURNED}:
        options = " --intensities image"
        if rule.intensities == "image" and rule.percentiles != PERCENTILES:
            options += f" --percentiles {','.join(map(plain, rule.percentiles))}"
    windows = ""
    if rule.dataset is not None and DICOM in set(reasons):
        windows = " (for DICOM files with a window: `--intensities image`)"
    return f"To convert new images in the same way, run `anomalib-ckaad convert FOLDER TARGET{options}`{windows}."
