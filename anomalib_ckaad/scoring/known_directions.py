"""What known anomalies say about the calibrated map: directions in which they stand out count more.

A whitened residual w has, over normal images, the same mean square in every direction. Known anomalies have more in
some. Only a few positions of an image are anomalous, so only those count whose residuals are longest; normal images
have such positions as well, and what those have is no sign of an anomaly. With S and T the mean outer products of
these w over normal images and known anomalies, in units of S's mean variance, the excess is
A = L'^-1 V max(Lambda - 1, 0) V' L^-1, where S = L L' and L^-1 T L'^-1 = V Lambda V'. The squared length w'w becomes
w'(I + s A)w up to a factor, with a scale s that keeps the excess small against all else: known directions count more,
and all others as much as each other, so that unknown anomalies are still found.

Where few normal images were trained on, others stand out as well, and partly in the same directions as known anomalies
do. So the excess is kept the smaller, the fewer there were. And where new normal images differ from all that were
trained on, a direction that counts for many would show that and little else: none counts more than three times as much.
"""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anomalib_ckaad.distributed import sum_counts, sum_over_processes

logger = logging.getLogger(__name__)

SHARE = 0.05
"""Share of an image's positions that stand out: those with the longest residuals."""
PRIOR = 32
"""Number of known anomalies that count half as much as all else."""
POWER = 3
"""Exponent of the share N / (N + 64) of N normal training images: with few of them, known anomalies count less."""
MOST = 2.0
"""What is added to a direction at most, as a multiple of what all count."""


class StandingOut:
    """Sums of outer products of the residuals that stand out in their image.

    Several processes share the images out among them and add their sums up.

    Args:
        sizes: Directions of each stage's residuals.
        like: A tensor of the device and precision to sum in.
        share: Of an image's positions, those that stand out.
    """

    def __init__(self, sizes: Sequence[int], like: Tensor, share: float = SHARE) -> None:
        self.images, self.positions, self.share = 0, [0] * len(sizes), share
        self.sums = [like.new_zeros(size, size) for size in sizes]

    def add(self, whitened: Sequence[Tensor]) -> None:
        """Count images: their whitened residuals, one tensor (N, positions, directions) a stage."""
        self.images += len(whitened[0])
        for stage, residuals in enumerate(whitened):
            kept = max(1, int(self.share * residuals.shape[1]))
            longest = residuals.square().sum(dim=-1).topk(kept, dim=1).indices
            chosen = residuals.gather(1, longest[..., None].expand(-1, -1, residuals.shape[-1])).flatten(0, 1)
            with torch.autocast(residuals.device.type, enabled=False):  # squares need all digits
                self.sums[stage] += chosen.mT @ chosen
            self.positions[stage] += len(chosen)

    def reduce(self) -> None:
        """Add up the sums of all processes."""
        self.images, *self.positions = sum_counts(self.images, *self.positions, device=self.sums[0].device)
        sum_over_processes(*self.sums)


def emphasis_weight(known: int, share: float = 1.0, prior: float = PRIOR, power: float = POWER) -> float:
    """What n known anomalies may weigh beside all else: share^3 n / (n + 32).

    Args:
        known: Number n of known anomalies.
        share: Share of the reconstruction that is subtracted, N / (N + 64) with N normal training images.
        prior: Number of known anomalies that weigh half as much as all else, however many normal images there are.
        power: Of the share.

    Example:
        >>> emphasis_weight(32), emphasis_weight(32, share=0.5)
        (0.5, 0.0625)
    """
    return math.pow(share, power) * known / (known + prior)


def emphasis_of(normal: StandingOut, known: StandingOut, weight: float, most: float = MOST) -> list[Tensor]:
    """Matrices E with E'E = (I + B) / (1 + trace(B) / d), to multiply each stage's whitening by.

    B is s A with no eigenvalue above 2; s is at most 1, and such that the trace of s A is c d at most, for d directions
    and the weight c. The mean weight of a direction stays 1. S is shrunk to a multiple of the identity, and T to S,
    each by as many residuals as there are directions.

    Args:
        normal: What stands out in normal training images.
        known: What stands out in known anomalies.
        weight: What this may weigh beside all else: ``emphasis_weight``.
        most: Largest eigenvalue.

    Returns:
        One tensor (d, d) a stage; the identity where nothing stands out more than in normal images.
    """
    return [
        _emphasis(
            normal.sums[stage].cpu().double(),  # not all devices have float64
            known.sums[stage].cpu().double(),
            counts=(normal.positions[stage], known.positions[stage]),
            weight=weight,
            most=most,
        )
        for stage in range(len(known.sums))
    ]


def largest_ratio(emphasis: Sequence[Tensor]) -> float:
    """How many times as much the direction counts that counts most, as the one that counts least: of one stage.

    Args:
        emphasis: Of each stage, ``emphasis_of``.

    Example:
        >>> largest_ratio([torch.eye(2), torch.diag(torch.tensor([1.0, 1.5]))])
        2.25
    """
    of_stages = [torch.linalg.eigvalsh(one.mT @ one) for one in emphasis]
    return max(float(one[-1] / one[0]) for one in of_stages)


def _emphasis(normal: Tensor, known: Tensor, *, counts: tuple[int, int], weight: float, most: float) -> Tensor:
    size = len(normal)
    identity = torch.eye(size, dtype=normal.dtype, device=normal.device)
    usual = normal.diagonal().mean() / max(1, counts[0])
    if not (torch.isfinite(known).all() and torch.isfinite(normal).all()):
        logger.warning("Some residuals are not finite. Known anomalies do not change the map.")
        return identity
    if not usual > 0:
        return identity
    reference = (normal + size * usual * identity) / (counts[0] + size)
    found = (known + size * reference) / (counts[1] + size)
    factor = torch.linalg.cholesky(reference)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    values, vectors = torch.linalg.eigh(inverse @ found @ inverse.mT)
    half = inverse.mT @ (vectors * (values - 1).clamp(min=0).sqrt())
    excess = usual * half @ half.mT
    of_direction = float(excess.diagonal().mean())
    if of_direction > weight:
        excess = excess * (weight / of_direction)
    values, vectors = torch.linalg.eigh(excess)
    values = values.clamp(min=0, max=most)
    excess = (vectors * values) @ vectors.mT
    emphasis: Tensor = torch.linalg.cholesky((identity + excess) / (1 + values.mean()), upper=True)
    return emphasis
