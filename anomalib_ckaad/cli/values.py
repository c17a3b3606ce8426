"""Values of the command line's options, from what was typed."""

import argparse


def counts(text: str) -> list[int]:
    """Numbers of known anomalies, separated by commas.

    >>> counts("0,2,5")
    [0, 2, 5]
    """
    return [int(word) for word in text.split(",")]


def pair(text: str) -> tuple[float, float]:
    """Two numbers, separated by a comma.

    >>> pair("100,4000")
    (100.0, 4000.0)
    """
    low, high = text.split(",")
    return float(low), float(high)


def intensities(text: str) -> str | tuple[float, float]:
    """``dataset``, ``image``, or low and high.

    >>> intensities("image"), intensities("-100,400")
    ('image', (-100.0, 400.0))
    """
    return text if text in {"dataset", "image"} else pair(text)


def tolerance(text: str) -> float:
    """A number of at least 0.

    >>> tolerance("1e-3")
    0.001
    """
    number = float(text)
    if not number >= 0:  # nor NaN, which every difference would exceed
        msg = f"{text!r} is not a number of at least 0"
        raise argparse.ArgumentTypeError(msg)
    return number
