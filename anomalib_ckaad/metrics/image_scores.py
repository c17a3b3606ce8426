"""Scores and labels of all images, kept for metrics that need them together."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from anomalib_ckaad.errors import MetricError


class ImageScores(Metric):
    """Keeps scores, and whether each is anomalous: 9 bytes a score.

    A base class: a metric adds ``compute``.
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - torchmetrics'
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")
        self._begin()

    def _begin(self) -> None:
        # Processes gather lists of the same length, so a process without images needs an empty entry.
        self.scores.append(torch.empty(0, dtype=torch.float64))
        self.labels.append(torch.empty(0, dtype=torch.bool))

    def reset(self) -> None:
        """Forget all scores."""
        super().reset()
        self._begin()

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Keep scores of any shape, and labels of the same shape.

        Raises:
            MetricError: If the shapes differ.
        """
        if scores.numel() != labels.numel():
            msg = f"Scores have shape {tuple(scores.shape)}, labels {tuple(labels.shape)}. Pass a label for each score."
            raise MetricError(msg)
        self.scores.append(scores.detach().double().flatten())
        self.labels.append(labels.bool().flatten())

    def collected(self) -> tuple[Tensor, Tensor]:
        """All scores (N,), float64, and labels (N,), boolean, on the CPU.

        Raises:
            MetricError: If there are none.
        """
        scores, labels = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.labels).cpu()
        if not len(scores):
            msg = f"{type(self).__name__} has seen no scores. Update it with a batch before it is computed."
            raise MetricError(msg)
        return scores, labels
