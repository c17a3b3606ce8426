"""Quantiles of any number of pixels in bounded memory, with a bound on their error."""

import torch
from torch import Tensor

# Of float32's 32 bits the leading 20 choose the bin: the sign, the exponent and 11 bits of the mantissa.
DROPPED_BITS = 12
BINS = 1 << (32 - DROPPED_BITS)
RELATIVE_ERROR = 2.0**-11


def histogram(values: Tensor) -> Tensor:
    """Count values in bins whose edges are numbers of float32, each wider than its place by a factor of 2^-11.

    The bits of a float, read as a whole number, are in the order of the floats: no range need be known beforehand.

    Args:
        values: Finite numbers of any shape, positive or negative.

    Returns:
        Counts (2^20,), int64: 8 MiB. Those of several batches may be added.
    """
    bits = values.float().flatten().view(torch.int32)
    # Negative floats run the other way: all their bits but the sign are turned.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return torch.bincount((ordered >> DROPPED_BITS) + BINS // 2, minlength=BINS)


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
