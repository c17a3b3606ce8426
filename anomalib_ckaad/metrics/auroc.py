"""AUROC of raw scores: of any range, whatever batches they come in."""

from typing import Any

import torch
from anomalib.metrics.base import AnomalibMetric
from torch import Tensor
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities.data import dim_zero_cat

from anomalib_ckaad.metrics.raw_scores import RAW_SCORE


def into_unit_range(scores: Tensor) -> Tensor:
    """Scores of any size to (0, 1), in their order.

    Example:
        >>> into_unit_range(torch.tensor([-1.0, 0.0, 1.0, 3.0]))
        tensor([0.2500, 0.5000, 0.7500, 0.8750], dtype=torch.float64)
    """
    scores = scores.to(torch.float64)
    return (1 + scores / (1 + scores.abs())) / 2


class _AUROC(BinaryAUROC):
    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics'
        super().__init__(**kwargs)
        self._keeps_scores = kwargs.get("thresholds") is None
        self._begin()

    def _begin(self) -> None:
        # Processes gather lists of one length: one without images has something to give as well.
        if self._keeps_scores:
            self.preds.append(torch.empty(0, dtype=torch.float64))
            self.target.append(torch.empty(0, dtype=torch.long))

    def reset(self) -> None:
        super().reset()
        self._begin()

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(into_unit_range(preds), target.long())

    def compute(self) -> Any:  # noqa: ANN401 - a Tensor; the base's base returns three
        if self._keeps_scores and not dim_zero_cat(self.target).numel():
            msg = "Expected images for AUROC, got none. Do update it first."
            raise ValueError(msg)
        return super().compute()


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

    default_fields = (RAW_SCORE, "gt_label")
