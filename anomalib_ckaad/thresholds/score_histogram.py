"""Quantiles of any number of pixels in bounded memory, with a bound on their error."""

import torch
from torch import Tensor

# Of float32's 32 bits the leading 20 choose the bin: the sign, the exponent and 11 bits of the mantissa.
DROPPED_BITS = 12
BINS = 1 << (32 - DROPPED_BITS)
RELATIVE_ERROR = 2.0**-11


def bins_of(values: Tensor) -> Tensor:
    """Bin of each value; the bits of a float, read as a whole number, are in the order of the floats.

    No range need be known beforehand.

    Args:
        values: Finite numbers of any shape, positive or negative; taken as float32.

    Returns:
        Whole numbers in [0, 2^20), int64, of the same shape, not falling where values rise.

    Example:
        >>> bins_of(torch.tensor([1.0, 1.0001, 1.001])).diff().tolist()
        [0, 2]
    """
    bits = (values.float() + 0.0).view(torch.int32)  # -0.0 and 0.0 are one number
    # Negative floats run the other way: all their bits but the sign are turned.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered >> DROPPED_BITS).long() + BINS // 2


def histogram(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Count values in bins whose edges are numbers of float32, each wider than its place by a factor of 2^-11.

    Args:
        values: Finite numbers of any shape, positive or negative.
        weights: What each counts, of the same shape; default: one.

    Returns:
        Counts (2^20,), 8 MiB: int64, or float64 with weights. Those of several batches may be added.
    """
    weights = None if weights is None else weights.flatten().double()
    return torch.bincount(bins_of(values.flatten()), weights, minlength=BINS)


def threshold_of(counts: Tensor, rate: float) -> float:
    """Smallest edge of a bin that at most a share ``rate`` of the counted values exceeds.

    Args:
        counts: What ``histogram`` gave (2^20,), not all zero.
        rate: The share, in (0, 1).

    Returns:
        The threshold: never below the exact quantile, and above it by at most 2^-11 of its absolute value.

    Example:
        >>> threshold = threshold_of(histogram(torch.arange(1.0, 101.0)), 0.05)
        >>> 95 <= threshold <= 95 * (1 + RELATIVE_ERROR)
        True
    """
    above = counts.sum() - counts.cumsum(0)  # (2^20,): values in later bins
    allowed = int(rate * counts.sum().item() + 1e-9)
    chosen = int((above > allowed).sum().item())  # falls from bin to bin: the first that is small enough
    largest = ((chosen - BINS // 2 + 1) << DROPPED_BITS) - 1
    bits = largest ^ 0x7FFFFFFF if largest < 0 else largest
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32).item())
