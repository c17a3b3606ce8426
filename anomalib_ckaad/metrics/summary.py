"""Image metrics of a ranking, and the mean of the seven usual metrics."""

from collections.abc import Mapping

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor

from anomalib_ckaad.errors import MetricError
from anomalib_ckaad.metrics.auroc import auroc
from anomalib_ckaad.metrics.image_scores import ImageScores
from anomalib_ckaad.metrics.raw_scores import RAW_MAP, RAW_SCORE
from anomalib_ckaad.metrics.streaming import PixelMetric

MEAN_OF = (
    "image_AUROC",
    "image_AP",
    "image_F1Max",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_F1Max",
    "pixel_AUPRO",
)


def ranking_scores(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """AUROC, average precision, best F1 and the accuracy at the best F1, of image scores.

    Images with equal scores are always on the same side of a threshold.

    Args:
        scores: Raw scores (N,), the larger the more anomalous.
        labels: Whether each image is anomalous (N,).

    Returns:
        ``AUROC``, ``AP``, ``F1Max`` and ``AccuracyAtF1Max``, each in [0, 1]. If several thresholds have the best F1,
        the accuracy is that of the highest of them.

    Raises:
        MetricError: If a score is not finite, or all images are normal, or all anomalous.

    Example:
        >>> ranking_scores(torch.tensor([0.1, 0.4, 0.3, 0.9]), torch.tensor([0, 0, 1, 1]))
        {'AUROC': 0.75, 'AP': 0.8333333333333333, 'F1Max': 0.8, 'AccuracyAtF1Max': 0.75}
    """
    labels = labels.bool()
    wrong = int((~torch.isfinite(scores)).sum())
    if wrong:
        msg = f"{wrong} of {len(scores)} image scores are not finite. Lower `learning_rate` and train again."
        raise MetricError(msg)
    if labels.all() or not labels.any():
        kind = "anomalous" if len(labels) and labels.all() else "normal"
        msg = f"All images are {kind}. Metrics need normal and anomalous ones; add the others."
        raise MetricError(msg)
    # (T,): numbers of anomalous and of normal images at each distinct score, the highest score first
    _, place = torch.unique(scores.double(), return_inverse=True)
    count = int(place.max()) + 1
    found, wrong_at = (torch.bincount(place[kind], minlength=count).flip(0).double() for kind in (labels, ~labels))
    true, false = found.cumsum(0), wrong_at.cumsum(0)
    positives, negatives = true[-1], false[-1]
    f1 = 2 * true / (true + false + positives)
    best = int(f1.argmax())
    below = negatives - false
    return {
        "AUROC": auroc(scores, labels),
        "AP": float((found * true / (true + false)).sum() / positives),
        "F1Max": float(f1[best]),
        "AccuracyAtF1Max": float((true[best] + below[best]) / (positives + negatives)),
    }


def mean_of_seven(values: Mapping[str, float]) -> float:
    """mAD of the COCO-AD paper: mean of image AUROC, AP and F1-max, pixel AUROC, AP and F1-max, and AUPRO.

    Args:
        values: Each in [0, 1], by the names in ``MEAN_OF``; others are ignored.

    Raises:
        MetricError: If one is missing.

    Example:
        >>> mean_of_seven(dict.fromkeys(MEAN_OF, 0.5))
        0.5
    """
    missing = [name for name in MEAN_OF if name not in values]
    if missing:
        msg = f"mAD needs {', '.join(missing)}, which are missing. Use test images with masks."
        raise MetricError(msg)
    return sum(values[name] for name in MEAN_OF) / len(MEAN_OF)


class _AccuracyAtF1Max(ImageScores):
    def compute(self) -> Tensor:
        return torch.tensor(ranking_scores(*self.collected())["AccuracyAtF1Max"])


class AccuracyAtF1Max(AnomalibMetric, _AccuracyAtF1Max):  # type: ignore[misc]
    """Accuracy of images, in [0, 1], at the threshold with the best F1, as CKAAD's paper has it for medical data.

    The threshold is chosen with the test labels, so new images get a lower accuracy.
    """

    default_fields = (RAW_SCORE, "gt_label")


class _MeanOfSeven(ImageScores, PixelMetric):
    def update(self, scores: Tensor, labels: Tensor, maps: Tensor, masks: Tensor) -> None:  # type: ignore[override]
        ImageScores.update(self, scores, labels)
        PixelMetric.update(self, maps, masks)

    def compute(self) -> Tensor:
        counts = self.counts()
        return torch.tensor(
            mean_of_seven(
                {
                    **{f"image_{name}": value for name, value in ranking_scores(*self.collected()).items()},
                    "pixel_AUROC": counts.auroc()[0],
                    "pixel_AP": counts.average_precision()[0],
                    "pixel_F1Max": counts.best_f1()[0],
                    "pixel_AUPRO": counts.aupro()[0],
                }
            )
        )


class mAD(AnomalibMetric, _MeanOfSeven):  # type: ignore[misc]  # noqa: N801 - the paper's name, which reports show
    """Mean of image AUROC, AP and F1-max, pixel AUROC, AP and F1-max, and AUPRO (arXiv 2404.10760), in [0, 1]."""

    default_fields = (RAW_SCORE, "gt_label", RAW_MAP, "gt_mask")
