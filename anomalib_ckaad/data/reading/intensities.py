"""The rule that maps the values of images to 8 bits, by a low and a high value.

A value v becomes (v - low) / (high - low), clipped to [0, 1] and rounded to 8 bits. All channels share low and high, so
color is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from anomalib_ckaad.errors import IntensityError

Limits = tuple[float, float]
Intensities = Literal["dataset", "image"] | Limits
Values = NDArray[Any]

PERCENTILES: Final[Limits] = (0.5, 99.5)
PIXELS_OF_AN_IMAGE: Final = 10_000
PIXELS_OF_ALL: Final = 10_000_000


@dataclass(frozen=True)
class Decoded:
    """The content of an image file.

    Args:
        values: (H, W) or (H, W, 3), upright; large is bright. NaN where there is nothing, which becomes black.
        window: Low and high that the file itself states.
    """

    values: Values
    window: Limits | None = None

    @property
    def has_eight_bits(self) -> bool:
        """Whether the values are 8 bits already and are kept."""
        return self.values.dtype == np.uint8 and self.window is None


def two_numbers(name: str, values: Sequence[object]) -> Limits:
    """An argument's two numbers, low and high.

    Raises:
        IntensityError: If there are not two numbers.

    Example:
        >>> two_numbers("percentiles", [0.5, 99.5])
        (0.5, 99.5)
    """
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) != len(values) or len(numbers) != len(("low", "high")):
        msg = f"`{name}` must be two numbers, low and high, not {list(values)}."
        raise IntensityError(msg)
    return numbers[0], numbers[1]


@dataclass(frozen=True)
class IntensityRule:
    """Where low and high come from: two numbers of the user's, else the file's own window, else percentiles.

    Args:
        intensities: Low and high; or where percentiles are taken: over the ``dataset`` or over each ``image``.
        percentiles: Which, in percent. Where both are the same value, minimum and maximum take their place.
        dataset: Low and high of the data set, once they are found.

    Raises:
        IntensityError: If low is not below high, or percentiles are not in [0, 100].

    Example:
        >>> IntensityRule((100, 4000)).limits(Decoded(np.zeros((2, 2), np.uint16)))
        (100, 4000)
        >>> IntensityRule().limits(Decoded(np.zeros((2, 2), np.uint8))) is None
        True
    """

    intensities: Intensities = "dataset"
    percentiles: Limits = PERCENTILES
    dataset: Limits | None = None

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:  # noqa: PLR2004
            msg = f"`percentiles` must be in [0, 100], the lower one first, not {low:g} and {high:g}."
            raise IntensityError(msg)
        if isinstance(self.intensities, str):
            if self.intensities not in {"dataset", "image"}:
                msg = f"`intensities` must be 'dataset', 'image' or two numbers, not {self.intensities!r}."
                raise IntensityError(msg)
            return
        low, high = self.intensities
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            msg = f"`intensities` must be two finite numbers, low before high, not {low} and {high}."
            raise IntensityError(msg)

    @property
    def needs_dataset(self) -> bool:
        """Whether low and high of the data set are still to be found."""
        return self.intensities == "dataset" and self.dataset is None

    @property
    def identity(self) -> str:
        """Everything that the result for a file depends on."""
        return repr((self.dataset or self.intensities, self.intensities == "image" and self.percentiles))

    def with_dataset(self, samples: Sequence[Values]) -> "IntensityRule":
        """Return the rule with the percentiles of ``samples``, or as it is where there are none."""
        return replace(self, dataset=percentile_limits(samples, self.percentiles)) if samples else self

    def limits(self, image: Decoded) -> Limits | None:
        """Low and high of an image; None where its values are kept.

        Raises:
            IntensityError: If those of the data set were never found.
        """
        if image.has_eight_bits:
            return None
        if not isinstance(self.intensities, str):
            return self.intensities
        if image.window is not None:
            return image.window
        if self.intensities == "image":
            return percentile_limits([image.values.ravel()], self.percentiles)
        if self.dataset is None:
            msg = (
                "Low and high cannot be taken from the normal images: none of them has more than 8 bits per channel. "
                "Set `intensities` to two numbers, low and high, or to 'image'."
            )
            raise IntensityError(msg)
        return self.dataset


def to_eight_bits(values: Values, limits: Limits | None) -> NDArray[np.uint8]:
    """Map values to 8 bits.

    Args:
        values: Of any shape and type; NaN becomes 0, infinity 0 or 255.
        limits: Low, which becomes 0, and high, which becomes 255. If both are equal, larger values become white and all
            others black. None keeps values of 8 bits.

    Example:
        >>> to_eight_bits(np.array([0, 100, 2050, 4000, 65535]), (100, 4000)).tolist()
        [0, 0, 128, 255, 255]
        >>> to_eight_bits(np.array([7, 8]), (7, 7)).tolist()
        [0, 255]
    """
    if limits is None:
        return values.astype(np.uint8, copy=False)
    low, high = limits
    numbers = np.nan_to_num(values.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if low == high:
        return np.where(numbers > high, 255, 0).astype(np.uint8)
    # Clipped first, as numbers far outside would overflow.
    return np.rint((np.clip(numbers, low, high) - low) / (high - low) * 255).astype(np.uint8)


def sample_pixels(values: Values, at_most: int = PIXELS_OF_AN_IMAGE) -> Values:
    """Take pixels at regular steps, with all their channels.

    Args:
        values: (H, W) or (H, W, 3).
        at_most: Number of pixels.

    Returns:
        Finite values, in one dimension.

    Example:
        >>> sample_pixels(np.arange(12).reshape(3, 4), at_most=4).tolist()
        [0, 3, 6, 9]
    """
    height, width = values.shape[:2]
    step = max(1, -(-height * width // at_most))
    # A step that shares a factor with the width would take the same few columns in every row.
    while step > 1 and math.gcd(step, width) > 1:
        step += 1
    chosen = values.reshape(height * width, -1)[::step].ravel()
    return chosen[np.isfinite(chosen)]


def percentile_limits(samples: Sequence[Values], percentiles: Limits = PERCENTILES) -> Limits:
    """Low and high of some values.

    Args:
        samples: Values of one image or of many; those that are not finite are left out.
        percentiles: Which, in percent; where both are the same value, minimum and maximum take their place.

    Raises:
        IntensityError: If there is no finite value.

    Example:
        >>> percentile_limits([np.arange(1001)])
        (5.0, 995.0)
        >>> percentile_limits([np.array([3, 3, 3])])
        (3.0, 3.0)
    """
    values = np.concatenate([sample.ravel() for sample in samples]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        msg = "No intensity is finite, so there are no percentiles. Check the images."
        raise IntensityError(msg)
    low, high = np.percentile(values, percentiles)
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)


def plain(number: float) -> str:
    """Write a number so that it reads back the same, without needless digits.

    Example:
        >>> plain(100.0), plain(0.1)
        ('100', '0.1')
    """
    return str(int(number)) if float(number).is_integer() else repr(float(number))
