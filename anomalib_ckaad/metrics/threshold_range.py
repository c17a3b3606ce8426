"""Segmentation averaged over a range of thresholds, as in the COCO-AD paper (arXiv 2404.10760, section 3.3)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RANGE = tuple(number / 10 for number in range(2, 9))
"""Thresholds 0.2, 0.3 … 0.8 of mF1, mAcc and mIoU."""
FINE_RANGE = tuple(number / 20 for number in range(21))
"""Thresholds 0, 0.05 … 1 of the largest IoU."""
NAMES = ("mF1", "mAcc", "mIoU", "mIoU_max")


class Confusion(NamedTuple):
    """Numbers of pixels: rightly called anomalous, wrongly called so, and missed."""

    true_positives: float
    false_positives: float
    false_negatives: float

    @property
    def f1(self) -> float:
        """F1; 0 where there is nothing to find and nothing is found."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def recall(self) -> float:
        """Recall of anomalous pixels, which the paper calls accuracy."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def iou(self) -> float:
        """Intersection over union of what is anomalous."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def average_over_range(confusion_at: Callable[[float], Confusion]) -> dict[str, float]:
    """The four scores, from the pixels' confusion at thresholds in [0, 1] of normalized maps.

    Args:
        confusion_at: Confusion of ``map > threshold`` with the masks, pixels of all images together.

    Returns:
        ``mF1``, ``mAcc``, ``mIoU`` and ``mIoU_max``, each in [0, 1].
    """
    found = [confusion_at(threshold) for threshold in RANGE]
    return {
        "mF1": _mean([one.f1 for one in found]),
        "mAcc": _mean([one.recall for one in found]),
        "mIoU": _mean([one.iou for one in found]),
        "mIoU_max": max(confusion_at(threshold).iou for threshold in FINE_RANGE),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check_maps(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks as (N, H, W), masks as booleans.

    Raises:
        ValueError: If they differ in shape or a value is not finite.
    """
    maps, masks = (one.squeeze(1) if one.ndim == 4 and one.shape[1] == 1 else one for one in (maps, masks))  # noqa: PLR2004
    if maps.shape != masks.shape:
        msg = (
            f"Expected maps and masks of one shape, got {tuple(maps.shape)} and {tuple(masks.shape)}. "
            "Do resize the masks to the maps."
        )
        raise ValueError(msg)
    wrong = int((~torch.isfinite(maps)).sum())
    if wrong:
        msg = f"Expected finite anomaly maps, got {wrong} pixels that are not. Do lower learning_rate, and train again."
        raise ValueError(msg)
    return maps.detach(), masks.bool()


def threshold_range_scores(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """mF1, mAcc, mIoU and mIoU-max of a whole test set.

    Maps are min-max normalized over the test set, a pixel is called anomalous where ``map > threshold``, and pixels of
    all images are counted together. mF1, mAcc and mIoU are arithmetic means over the thresholds 0.2, 0.3 … 0.8, and
    mIoU-max is the largest IoU over 0, 0.05 … 1. mAcc is the recall of anomalous pixels. One outlier moves all of them.

    Args:
        maps: Raw anomaly maps (N, H, W) or (N, 1, H, W).
        masks: What is anomalous, same shape; anything but 0 is.

    Returns:
        ``mF1``, ``mAcc``, ``mIoU`` and ``mIoU_max``, each in [0, 1]; 0 without an anomalous pixel, and where all pixels
        are equal, as nothing is called anomalous then.

    Raises:
        ValueError: If shapes differ, or a value is not finite.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.25, 0.55, 1.0]]])
        >>> {name: round(value, 3) for name, value in threshold_range_scores(maps, maps > 0.5).items()}
        {'mF1': 0.829, 'mAcc': 0.786, 'mIoU': 0.738, 'mIoU_max': 1.0}
    """
    maps, masks = check_maps(maps, masks)
    if not masks.any():
        return dict.fromkeys(NAMES, 0.0)
    values = maps.double().flatten()
    low, high = values.min(), values.max()
    # A range that is no normal number would make quotients that are none either.
    normalized = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    inside, outside = (normalized[chosen].sort().values for chosen in (masks.flatten(), ~masks.flatten()))

    def confusion_at(threshold: float) -> Confusion:
        hit, wrong = (len(one) - int(torch.searchsorted(one, threshold, right=True)) for one in (inside, outside))
        return Confusion(hit, wrong, len(inside) - hit)

    return average_over_range(confusion_at)
