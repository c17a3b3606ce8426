"""Segmentation averaged over a range of thresholds, as in the COCO-AD paper (arXiv 2404.10760, section 3.3)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_ckaad.errors import MetricError

RANGE = tuple(number / 10 for number in range(2, 9))
"""Thresholds 0.2, 0.3 … 0.8 of mF1, mAcc and mIoU."""
FINE_RANGE = tuple(number / 20 for number in range(21))
"""Thresholds 0, 0.05 … 1 of the largest IoU."""
NAMES = ("mF1", "mAcc", "mIoU", "mIoU_max")


class Confusion(NamedTuple):
    """Numbers of pixels that are true positives, false positives and false negatives."""

    true_positives: float
    false_positives: float
    false_negatives: float

    @property
    def f1(self) -> float:
        """F1; 0 if no pixel is anomalous and none is predicted to be."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def recall(self) -> float:
        """Recall of anomalous pixels, which the paper calls accuracy."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def iou(self) -> float:
        """Intersection over union of the anomalous pixels."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def average_over_range(confusion_at: Callable[[float], Confusion]) -> dict[str, float]:
    """The four scores, from confusions at thresholds in [0, 1] of normalized maps.

    Args:
        confusion_at: Returns the confusion of ``map > threshold`` with the masks, over the pixels of all images.

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
        MetricError: If they differ in shape, or a value is not finite.
    """
    maps, masks = (one.squeeze(1) if one.ndim == 4 and one.shape[1] == 1 else one for one in (maps, masks))  # noqa: PLR2004
    if maps.shape != masks.shape:
        msg = (
            f"Anomaly maps have shape {tuple(maps.shape)}, masks {tuple(masks.shape)}. "
            "Resize the masks to the size of the maps."
        )
        raise MetricError(msg)
    wrong = int((~torch.isfinite(maps)).sum())
    if wrong:
        msg = f"{wrong} pixels of the anomaly maps are not finite. Lower `learning_rate` and train again."
        raise MetricError(msg)
    return maps.detach(), masks.bool()


def threshold_range_scores(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """mF1, mAcc, mIoU and mIoU-max of a whole test set.

    Maps are min-max normalized over the test set, a pixel is predicted to be anomalous if ``map > threshold``, and the
    pixels of all images are counted together. mF1, mAcc and mIoU are means over the thresholds 0.2, 0.3 … 0.8, and
    mIoU-max is the largest IoU over 0, 0.05 … 1. mAcc is the recall of anomalous pixels. As maps are normalized by
    their minimum and maximum, a single outlier changes all four.

    Args:
        maps: Raw anomaly maps (N, H, W) or (N, 1, H, W).
        masks: Masks of the same shape; any value but 0 is anomalous.

    Returns:
        ``mF1``, ``mAcc``, ``mIoU`` and ``mIoU_max``, each in [0, 1]; 0 if no pixel is anomalous, or if all
        scores are equal.

    Raises:
        MetricError: If shapes differ, or a value is not finite.

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
    # Without the check, equal scores would be divided by 0.
    normalized = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    inside, outside = (normalized[chosen].sort().values for chosen in (masks.flatten(), ~masks.flatten()))

    def confusion_at(threshold: float) -> Confusion:
        hit, wrong = (len(one) - int(torch.searchsorted(one, threshold, right=True)) for one in (inside, outside))
        return Confusion(hit, wrong, len(inside) - hit)

    return average_over_range(confusion_at)
