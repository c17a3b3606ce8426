"""Options that are written with commas, from the text that was typed."""

from typing import Literal

from anomalib_ckaad.errors import ConfigurationError


def whole_numbers(text: str, option: str) -> list[int]:
    """Whole numbers, separated by commas.

    Raises:
        ConfigurationError: If the text is anything else.

    Example:
        >>> whole_numbers("0,2,5", "--counts")
        [0, 2, 5]
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        msg = f"{option} must be whole numbers separated by commas, such as 0,2,5, not {text!r}."
        raise ConfigurationError(msg) from error


def pair(text: str, option: str) -> tuple[float, float]:
    """Two numbers, separated by a comma.

    Raises:
        ConfigurationError: If the text is anything else.

    Example:
        >>> pair("0.5,99.5", "--percentiles")
        (0.5, 99.5)
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        msg = f"{option} must be two numbers separated by a comma, such as 0.5,99.5, not {text!r}."
        raise ConfigurationError(msg) from error
    return low, high


def black_and_white(text: str, option: str) -> Literal["dataset", "image"] | tuple[float, float]:
    """What becomes black and white: low and high, or where they are taken from.

    Raises:
        ConfigurationError: If the text is anything else.

    Example:
        >>> black_and_white("image", "--intensities"), black_and_white("-100,400", "--intensities")
        ('image', (-100.0, 400.0))
    """
    if text == "dataset":
        return "dataset"
    if text == "image":
        return "image"
    try:
        return pair(text, option)
    except ConfigurationError as error:
        msg = f"{option} must be dataset, image, or two numbers LOW,HIGH, not {text!r}."
        raise ConfigurationError(msg) from error
