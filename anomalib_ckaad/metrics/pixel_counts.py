"""What pixel metrics need of all test images, in memory that does not grow with their number."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from scipy import ndimage
from torch import Tensor

from anomalib_ckaad.metrics.threshold_range import Confusion, average_over_range
from anomalib_ckaad.thresholds.score_histogram import bins_of


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of a test set by their score, the highest first; scores within 2^-11 of their value share a bin.

    Attributes:
        bins: Numbers of the bins that hold pixels (B,), falling.
        normal: Number of normal pixels in each bin (B,), float64.
        anomalous: Number of anomalous pixels in each bin (B,), float64.
        overlap: Sum over the anomalous pixels in each bin of one by the size of their region (B,), float64.
        regions: Number of anomalous regions.
        low: Smallest score.
        high: Largest score.
    """

    bins: Tensor
    normal: Tensor
    anomalous: Tensor
    overlap: Tensor
    regions: int
    low: float
    high: float

    @classmethod
    def of(
        cls, normal: Tensor, anomalous: Tensor, overlap: Tensor, regions: int, low: float, high: float
    ) -> "PixelCounts":
        """From histograms over all bins, as ``score_histogram.histogram`` gives them."""
        bins = (normal + anomalous).nonzero().flatten().flip(0)
        return cls(bins, normal[bins].double(), anomalous[bins].double(), overlap[bins].double(), regions, low, high)

    @cached_property
    def _false(self) -> Tensor:
        return self.normal.cumsum(0)  # (B,): normal pixels in this bin or above

    @cached_property
    def _true(self) -> Tensor:
        return self.anomalous.cumsum(0)

    def check(self) -> None:
        """Refuse pixels of one kind, which cannot be told apart.

        Raises:
            ValueError: If no pixel is normal, or none anomalous.
        """
        for name, count in (("normal", self.normal), ("anomalous", self.anomalous)):
            if not count.sum() > 0:
                msg = f"Expected normal and anomalous pixels, got no {name} one. Do check the masks of the test images."
                raise ValueError(msg)

    def auroc(self) -> tuple[float, float]:
        """Area under the ROC curve, pairs of one bin counted half, and what it may be wrong by."""
        self.check()
        pairs = float(self._false[-1] * self._true[-1])
        below = self._false[-1] - self._false  # (B,): normal pixels in lower bins
        same = float((self.anomalous * self.normal).sum()) / 2
        return (float((self.anomalous * below).sum()) + same) / pairs, same / pairs

    def average_precision(self) -> tuple[float, float]:
        """Average precision, each bin's anomalous pixels at the precision of its end, and what it may be wrong by."""
        self.check()
        share = self.anomalous / self._true[-1]
        at_end = self._true / (self._true + self._false)
        # In any order inside the bin, precision is between its first anomalous pixel last and all of them first.
        before_true, before_false = self._true - self.anomalous, self._false - self.normal
        best = self._true / (self._true + before_false).clamp(min=1)
        worst = (before_true + 1) / (before_true + 1 + self._false)
        wrong = share * torch.maximum(best - at_end, at_end - worst).clamp(min=0)
        return float((share * at_end).sum()), float(wrong.sum())

    def best_f1(self) -> tuple[float, float]:
        """F1 at the threshold, an edge of a bin, where it is largest, and what it may be wrong by."""
        self.check()
        value = float((2 * self._true / (self._true + self._false + self._true[-1])).max())
        # All anomalous pixels of a bin above all normal ones.
        best = 2 * self._true / (self._true + self._false - self.normal + self._true[-1])
        return value, float(best.max()) - value

    def pro_curve(self) -> tuple[Tensor, Tensor]:
        """False-positive rate and mean overlap with the regions at every edge of a bin, from 0 to 1."""
        self.check()
        zero = torch.zeros(1, dtype=torch.float64)
        rate = torch.cat([zero, self._false / self._false[-1]])
        return rate, torch.cat([zero, self.overlap.cumsum(0) / self.regions])

    def roc_curve(self) -> tuple[Tensor, Tensor]:
        """False-positive rate and true-positive rate at every edge of a bin, from 0 to 1."""
        self.check()
        zero = torch.zeros(1, dtype=torch.float64)
        return torch.cat([zero, self._false / self._false[-1]]), torch.cat([zero, self._true / self._true[-1]])

    def aupro(self, limit: float = 0.3) -> tuple[float, float]:
        """Area under the PRO curve up to a false-positive rate, by that rate, and what it may be wrong by."""
        rate, overlap = self.pro_curve()
        width = rate.clamp(max=limit).diff()
        # Where the limit cuts a bin, its share of the rise, as anomalib's AUPRO interpolates.
        part = torch.where(rate.diff() > 0, width / rate.diff().clamp(min=1e-300), 1.0)
        rise = part * overlap.diff()
        inside = rate[:-1] < limit
        area = (width * (overlap[:-1] + rise / 2))[inside].sum()
        # Inside a bin the curve may be any that rises: at once or at the end, above or below the straight line.
        wrong = (width * overlap.diff() * torch.maximum(part / 2, 1 - part / 2))[inside].sum()
        return float(area) / limit, float(wrong) / limit

    def confusion_at(self, threshold: float, own_bin: Literal["none", "anomalous", "normal"] = "none") -> Confusion:
        """Confusion at a threshold of normalized scores.

        Args:
            threshold: In [0, 1].
            own_bin: Which pixels of the threshold's own bin count as above it: the truth lies between ``anomalous``,
                the best case, and ``normal``, the worst.
        """
        # As exact as a score that equals the threshold is: the product of a quotient may fall short of it.
        edge = torch.tensor(self.low + threshold * (self.high - self.low), dtype=torch.float64).float()
        higher, same = self.bins > bins_of(edge), self.bins == bins_of(edge)
        hit = float(self.anomalous[higher | (same & (own_bin == "anomalous"))].sum())
        wrong = float(self.normal[higher | (same & (own_bin == "normal"))].sum())
        return Confusion(hit, wrong, float(self._true[-1]) - hit)

    def threshold_range(self) -> dict[str, tuple[float, float]]:
        """mF1, mAcc, mIoU and mIoU_max, each with what it may be wrong by."""
        value = average_over_range(self.confusion_at)
        best = average_over_range(partial(self.confusion_at, own_bin="anomalous"))
        worst = average_over_range(partial(self.confusion_at, own_bin="normal"))
        return {name: (value[name], max(best[name] - value[name], value[name] - worst[name])) for name in value}


def region_weights(masks: Tensor) -> tuple[Tensor, int]:
    """For each anomalous pixel one by the number of pixels of its region, and the number of regions.

    Regions are joined at corners as well, as in anomalib's AUPRO.

    Args:
        masks: (N, H, W), boolean.

    Returns:
        (N, H, W) of float64, 0 outside of masks; and how many regions there are.

    Example:
        >>> weights, regions = region_weights(torch.tensor([[[1, 1, 0, 1]]]).bool())
        >>> weights.tolist(), regions
        ([[[0.5, 0.5, 0.0, 1.0]]], 2)
    """
    weights = torch.zeros(masks.shape, dtype=torch.float64)
    regions = 0
    for index in masks.flatten(1).any(dim=1).nonzero().flatten().tolist():
        labels, count = ndimage.label(masks[index].cpu().numpy(), structure=[[1, 1, 1]] * 3)
        found = torch.from_numpy(labels).long()
        sizes = torch.bincount(found.flatten(), minlength=count + 1).double()
        sizes[0] = torch.inf
        weights[index] = 1 / sizes[found]
        regions += count
    return weights, regions
