"""Histograms of pixel scores over a test set, and the pixel metrics computed from them."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from scipy import ndimage
from torch import Tensor

from anomalib_ckaad.errors import MetricError
from anomalib_ckaad.metrics.threshold_range import Confusion, average_over_range
from anomalib_ckaad.thresholds.score_histogram import bins_of


@dataclass(frozen=True)
class PixelCounts:
    """Numbers of pixels by score, the highest first; scores that differ by less than 2^-11 of their value share a bin.

    The memory does not grow with the number of images. Each metric returns its value and the largest error that the
    bins can cause.

    Attributes:
        bins: Numbers of the bins that are not empty (B,), decreasing.
        normal: Number of normal pixels in each bin (B,), float64.
        anomalous: Number of anomalous pixels in each bin (B,), float64.
        overlap: Sum of 1 / (size of its region) over the anomalous pixels in each bin (B,), float64.
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
        """Make one from histograms over all bins, as ``score_histogram.histogram`` returns them."""
        bins = (normal + anomalous).nonzero().flatten().flip(0)
        return cls(bins, normal[bins].double(), anomalous[bins].double(), overlap[bins].double(), regions, low, high)

    @cached_property
    def _false(self) -> Tensor:
        return self.normal.cumsum(0)  # (B,): normal pixels in this bin or above

    @cached_property
    def _true(self) -> Tensor:
        return self.anomalous.cumsum(0)

    def check(self) -> None:
        """Check that there are normal and anomalous pixels.

        Raises:
            MetricError: If no pixel is normal, or none anomalous.
        """
        for name, count in (("normal", self.normal), ("anomalous", self.anomalous)):
            if not count.sum() > 0:
                msg = f"No pixel is {name}. Pixel metrics need normal and anomalous ones; check the masks."
                raise MetricError(msg)

    def auroc(self) -> tuple[float, float]:
        """Area under the ROC curve of binned scores, where pairs in one bin count half, and its largest error.

        Another computation than ``metrics.auroc``, which is exact but needs all scores in memory.
        """
        self.check()
        pairs = float(self._false[-1] * self._true[-1])
        below = self._false[-1] - self._false  # (B,): normal pixels in lower bins
        same = float((self.anomalous * self.normal).sum()) / 2
        return (float((self.anomalous * below).sum()) + same) / pairs, same / pairs

    def average_precision(self) -> tuple[float, float]:
        """Average precision, with the precision at the lower edge of each bin, and its largest error."""
        self.check()
        share = self.anomalous / self._true[-1]
        at_end = self._true / (self._true + self._false)
        # Best case: the anomalous pixels of a bin come first. Worst case: they come last.
        before_true, before_false = self._true - self.anomalous, self._false - self.normal
        best = self._true / (self._true + before_false).clamp(min=1)
        worst = (before_true + 1) / (before_true + 1 + self._false)
        wrong = share * torch.maximum(best - at_end, at_end - worst).clamp(min=0)
        return float((share * at_end).sum()), float(wrong.sum())

    def best_f1(self) -> tuple[float, float]:
        """Largest F1 at any edge of a bin, and its largest error."""
        self.check()
        value = float((2 * self._true / (self._true + self._false + self._true[-1])).max())
        # Best case: all anomalous pixels of a bin are above its normal ones.
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
        """Area under the PRO curve up to a false-positive rate, divided by that rate, and its largest error."""
        rate, overlap = self.pro_curve()
        width = rate.clamp(max=limit).diff()
        # The share of a bin below the limit, by linear interpolation as in anomalib's AUPRO.
        part = torch.where(rate.diff() > 0, width / rate.diff().clamp(min=1e-300), 1.0)
        rise = part * overlap.diff()
        inside = rate[:-1] < limit
        area = (width * (overlap[:-1] + rise / 2))[inside].sum()
        # Inside a bin the curve may rise at the start or at the end instead of in a straight line.
        wrong = (width * overlap.diff() * torch.maximum(part / 2, 1 - part / 2))[inside].sum()
        return float(area) / limit, float(wrong) / limit

    def confusion_at(self, threshold: float, own_bin: Literal["none", "anomalous", "normal"] = "none") -> Confusion:
        """Confusion at a threshold of normalized scores.

        Args:
            threshold: In [0, 1].
            own_bin: Which pixels in the threshold's own bin count as above it. The exact confusion lies between that of
                ``anomalous``, the best case, and that of ``normal``, the worst.
        """
        # In float32, like the scores: in float64 the edge may be just below a score that it is equal to.
        edge = torch.tensor(self.low + threshold * (self.high - self.low), dtype=torch.float64).float()
        higher, same = self.bins > bins_of(edge), self.bins == bins_of(edge)
        hit = float(self.anomalous[higher | (same & (own_bin == "anomalous"))].sum())
        wrong = float(self.normal[higher | (same & (own_bin == "normal"))].sum())
        return Confusion(hit, wrong, float(self._true[-1]) - hit)

    def threshold_range(self) -> dict[str, tuple[float, float]]:
        """mF1, mAcc, mIoU and mIoU_max, each with its largest error."""
        value = average_over_range(self.confusion_at)
        best = average_over_range(partial(self.confusion_at, own_bin="anomalous"))
        worst = average_over_range(partial(self.confusion_at, own_bin="normal"))
        return {name: (value[name], max(best[name] - value[name], value[name] - worst[name])) for name in value}


def region_weights(masks: Tensor) -> tuple[Tensor, int]:
    """1 / (number of pixels in its region) for each anomalous pixel, and the number of regions.

    Pixels that touch at a corner are in one region, as in anomalib's AUPRO.

    Args:
        masks: Anomalous pixels (N, H, W), boolean.

    Returns:
        Weights (N, H, W), float64, 0 outside the masks; and the number of regions.

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
