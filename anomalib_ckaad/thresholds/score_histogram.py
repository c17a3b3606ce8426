"""Quantiles of any number of pixels in a fixed amount of memory, with a bound on their error."""

import torch
from torch import Tensor

# The leading 20 of a float32's 32 bits choose the bin: the sign, the exponent and 11 bits of the mantissa.
DROPPED_BITS = 12
BINS = 1 << (32 - DROPPED_BITS)
RELATIVE_ERROR = 2.0**-11


def bins_of(values: Tensor) -> Tensor:
    """Bin of each value. The range of the values need not be known: the bits of floats are ordered as the floats are.

    Args:
        values: Finite numbers of any shape, positive or negative; converted to float32.

    Returns:
        Numbers of bins in [0, 2^20), int64, of the same shape. A larger value never has a lower bin.

    Example:
        >>> bins_of(torch.tensor([1.0, 1.0001, 1.001])).diff().tolist()
        [0, 2]
    """
    bits = (values.float() + 0.0).view(torch.int32)  # -0.0 and 0.0 are one number
    # The bits of negative floats are in reverse order, so all but the sign are flipped.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered >> DROPPED_BITS).long() + BINS // 2


def histogram(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Count values in bins that are at most 2^-11 of their values wide.

    Args:
        values: Finite numbers of any shape, positive or negative.
        weights: Weight of each value, of the same shape. Default: 1.

    Returns:
        Counts (2^20,), 8 MiB: int64, or float64 with weights. Counts of several batches can be added.
    """
    weights = None if weights is None else weights.flatten().double()
    return torch.bincount(bins_of(values.flatten()), weights, minlength=BINS)


def threshold_of(counts: Tensor, rate: float) -> float:
    """Smallest edge of a bin that at most a share ``rate`` of the counted values exceeds.

    Args:
        counts: Counts of ``histogram`` (2^20,), not all zero.
        rate: The share, in (0, 1).

    Returns:
        The threshold: at least the exact quantile, and above it by at most 2^-11 of its absolute value.

    Example:
        >>> threshold = threshold_of(histogram(torch.arange(1.0, 101.0)), 0.05)
        >>> 95 <= threshold <= 95 * (1 + RELATIVE_ERROR)
        True
    """
    above = counts.sum() - counts.cumsum(0)  # (2^20,): values in later bins
    allowed = int(rate * counts.sum().item() + 1e-9)
    chosen = int((above > allowed).sum().item())  # the first bin with so few above it
    largest = ((chosen - BINS // 2 + 1) << DROPPED_BITS) - 1
    bits = largest ^ 0x7FFFFFFF if largest < 0 else largest
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32).item())
