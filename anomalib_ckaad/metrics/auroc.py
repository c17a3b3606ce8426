"""AUROC of raw scores: of any range, whatever batches they come in."""

import torch
from anomalib.metrics.base import AnomalibMetric
from torch import Tensor
from torchmetrics.classification import BinaryAUROC


def into_unit_range(scores: Tensor) -> Tensor:
    """Scores of any size to (0, 1), in their order.

    Example:
        >>> into_unit_range(torch.tensor([-1.0, 0.0, 1.0, 3.0]))
        tensor([0.2500, 0.5000, 0.7500, 0.8750], dtype=torch.float64)
    """
    scores = scores.to(torch.float64)
    return (1 + scores / (1 + scores.abs())) / 2


class _AUROC(BinaryAUROC):
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(into_unit_range(preds), target)


class AUROC(AnomalibMetric, _AUROC):  # type: ignore[misc]  # anomalib's own metrics are made in this way
    """Area under the ROC curve of scores as they are.

    anomalib's takes scores for logits as soon as one of a batch lies outside [0, 1]: of a batch then all go through a
    sigmoid, of another none, and what is ranked against each other is not in one unit.

    Example:
        >>> metric = AUROC(fields=["score", "label"])
        >>> from types import SimpleNamespace
        >>> for score, label in ((0.9, 0), (1.5, 1), (0.95, 0), (2.0, 1)):
        ...     metric.update(SimpleNamespace(score=torch.tensor([score]), label=torch.tensor([label])))
        >>> metric.compute()
        tensor(1.)
    """
