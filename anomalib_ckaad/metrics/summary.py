"""Accuracy where F1 is best, and the mean of the seven usual metrics."""

from collections.abc import Mapping
from typing import Any

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

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
    """AUROC, average precision, best F1 and the accuracy there, of image scores; ties are never told apart.

    Args:
        scores: Raw scores (N,), the larger the more anomalous.
        labels: Whether each image is anomalous (N,).

    Returns:
        ``AUROC``, ``AP``, ``F1Max`` and ``AccuracyAtF1Max``, each in [0, 1]. Where several thresholds share the best
        F1, the accuracy is that of the highest of them.

    Raises:
        ValueError: If a score is not finite, or all images are of one kind.

    Example:
        >>> ranking_scores(torch.tensor([0.1, 0.4, 0.3, 0.9]), torch.tensor([0, 0, 1, 1]))
        {'AUROC': 0.75, 'AP': 0.8333333333333333, 'F1Max': 0.8, 'AccuracyAtF1Max': 0.75}
    """
    labels = labels.bool()
    wrong = int((~torch.isfinite(scores)).sum())
    if wrong:
        msg = f"Expected finite image scores, got {wrong} that are not. Do lower learning_rate, and train again."
        raise ValueError(msg)
    if labels.all() or not labels.any():
        kind = "anomalous" if len(labels) and labels.all() else "normal"
        msg = f"Expected normal and anomalous images, got {kind} ones only. Do add the others."
        raise ValueError(msg)
    # (T,): at each distinct score, the highest first, the images of either kind
    _, place = torch.unique(scores.double(), return_inverse=True)
    count = int(place.max()) + 1
    found, wrong_at = (torch.bincount(place[kind], minlength=count).flip(0).double() for kind in (labels, ~labels))
    true, false = found.cumsum(0), wrong_at.cumsum(0)
    positives, negatives = true[-1], false[-1]
    f1 = 2 * true / (true + false + positives)
    best = int(f1.argmax())
    below = negatives - false
    return {
        "AUROC": float((found * (below + wrong_at / 2)).sum() / (positives * negatives)),
        "AP": float((found * true / (true + false)).sum() / positives),
        "F1Max": float(f1[best]),
        "AccuracyAtF1Max": float((true[best] + below[best]) / (positives + negatives)),
    }


def mean_of_seven(values: Mapping[str, float]) -> float:
    """mAD of the COCO-AD paper: the mean of image AUROC, AP, F1-max, pixel AUROC, AP, F1-max, and AUPRO.

    Args:
        values: Each in [0, 1], by the names in ``MEAN_OF``; others are ignored.

    Raises:
        ValueError: If one is missing.

    Example:
        >>> mean_of_seven(dict.fromkeys(MEAN_OF, 0.5))
        0.5
    """
    missing = [name for name in MEAN_OF if name not in values]
    if missing:
        msg = f"Expected {', '.join(MEAN_OF)} for mAD, got no {', '.join(missing)}. Do use test images with masks."
        raise ValueError(msg)
    return sum(values[name] for name in MEAN_OF) / len(MEAN_OF)


class _ImageScores(Metric):
    """Keeps the scores and labels of images: 5 bytes an image."""

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics'
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")
        self._begin()

    def _begin(self) -> None:
        # Processes gather lists of one length: one without images has something to give as well.
        self.scores.append(torch.empty(0))
        self.labels.append(torch.empty(0, dtype=torch.bool))

    def reset(self) -> None:
        super().reset()
        self._begin()

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.scores.append(scores.detach().float().flatten())
        self.labels.append(labels.bool().flatten())

    def ranking(self) -> dict[str, float]:
        return ranking_scores(dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.labels).cpu())


class _AccuracyAtF1Max(_ImageScores):
    def compute(self) -> Tensor:
        return torch.tensor(self.ranking()["AccuracyAtF1Max"])


class AccuracyAtF1Max(AnomalibMetric, _AccuracyAtF1Max):  # type: ignore[misc]
    """Accuracy of images at the threshold of the best F1 on these very images, as CKAAD's paper for medical data.

    An oracle: the threshold knows the test labels.
    """

    default_fields = (RAW_SCORE, "gt_label")


class _MeanOfSeven(_ImageScores, PixelMetric):
    def update(self, scores: Tensor, labels: Tensor, maps: Tensor, masks: Tensor) -> None:  # type: ignore[override]
        _ImageScores.update(self, scores, labels)
        PixelMetric.update(self, maps, masks)

    def compute(self) -> Tensor:
        counts = self.counts()
        return torch.tensor(
            mean_of_seven(
                {
                    **{f"image_{name}": value for name, value in self.ranking().items()},
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
