"""The area under the ROC curve of scores of any range, exactly.

``PixelCounts.auroc`` is the one of binned pixels, ``study.statistics.weighted_auroc`` the one of weighted images.
"""

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_ckaad.metrics.image_scores import ImageScores
from anomalib_ckaad.metrics.raw_scores import RAW_SCORE


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve; a tie between a normal and an anomalous score counts half.

    torchmetrics takes scores outside [0, 1] for logits, and its sigmoid rounds large ones together. Ranks in [0, 1)
    keep the order of any scores.

    Args:
        scores: Scores of any shape and range, the larger the more anomalous.
        labels: 1 or True where anomalous, same shape.

    Returns:
        The area, in [0, 1]; 0, with torchmetrics' warning, if all labels are equal.

    Example:
        >>> auroc(torch.tensor([20.0, 22.0, 21.0, 23.0]), torch.tensor([0, 0, 1, 1]))
        0.75
    """
    _, ranks = torch.unique(scores, return_inverse=True)
    return float(binary_auroc(ranks.flatten().double() / max(1, ranks.numel()), labels.flatten().int()))


class _AUROC(ImageScores):
    def compute(self) -> Tensor:
        return torch.tensor(auroc(*self.collected()))


class AUROC(AnomalibMetric, _AUROC):  # type: ignore[misc]  # anomalib's own metrics are made in this way
    """Area under the ROC curve, in [0, 1], of raw image scores, or with ``fields`` of raw maps and masks.

    Unlike anomalib's, it does not depend on batches: there, one score outside [0, 1] sends its whole batch, but no
    other, through a sigmoid.

    Raises:
        MetricError: If it is computed before any image was seen.

    Example:
        >>> metric = AUROC(fields=["score", "label"])
        >>> from types import SimpleNamespace
        >>> for score, label in ((0.9, 0), (1.5, 1), (0.95, 0), (2.0, 1)):
        ...     metric.update(SimpleNamespace(score=torch.tensor([score]), label=torch.tensor([label])))
        >>> metric.compute()
        tensor(1.)
    """

    default_fields = (RAW_SCORE, "gt_label")
