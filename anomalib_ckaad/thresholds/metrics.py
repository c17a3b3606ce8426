"""Threshold metrics that anomalib's post-processor updates with validation batches and computes after each epoch."""

import logging
from typing import Any, Literal

import torch
from anomalib.data import ImageBatch
from anomalib.metrics.threshold import Threshold
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from anomalib_ckaad.errors import MetricError
from anomalib_ckaad.thresholds.order_statistics import (
    number_beyond,
    rate_bound,
    rate_threshold,
    recall_threshold,
    samples_needed,
)
from anomalib_ckaad.thresholds.score_histogram import BINS, histogram, threshold_of

logger = logging.getLogger(__name__)

Level = Literal["image", "pixel"]
USE_NORMAL_IMAGES = "Validate on normal images, for example with `val_split_mode: from_train`."
USE_ANOMALIES = "Validate on some anomalous images, for example with `val_split_mode: from_test`."
MASKS_OR_NONE = "Pass the masks' folder as `mask_dir`, or leave `{argument}` out."


class _RateThreshold(Threshold):
    """Target, labels, and warnings that are logged once instead of after every epoch."""

    full_state_update = False

    def __init__(self, argument: str, target: float, confidence: float | None) -> None:
        super().__init__()
        self.argument = argument
        self.target = target
        self.confidence = confidence
        self._warned: str | None = None

    def _labels_and(self, scores: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Finite scores, and whether each image is anomalous (N,).

        Raises:
            MetricError: If scores or labels are missing, or some scores are not finite.
        """
        if scores is None or labels is None:
            missing = "scores" if scores is None else "labels"
            msg = (
                f"`{self.argument}` needs labeled validation images, and a batch has no {missing}. {USE_NORMAL_IMAGES}"
            )
            raise MetricError(msg)
        wrong = int((~torch.isfinite(scores)).sum().item())
        if wrong:
            msg = (
                f"`{self.argument}` cannot be reached: {wrong} of {scores.numel()} validation scores are not finite. "
                "Lower `learning_rate` and train again."
            )
            raise MetricError(msg)
        return scores.detach(), labels.to(scores.device, torch.bool).flatten()

    def _warn(self, text: str) -> None:
        if text != self._warned:
            logger.warning(text)
            self._warned = text


class ImageThreshold(_RateThreshold):
    """Threshold of image scores for a false-positive rate of normal images or a recall of anomalous ones.

    Args:
        argument: Name of the target, also in messages: ``image_false_positive_rate`` or ``image_recall``.
        target: The rate or the recall, in (0, 1).
        confidence: As for ``rate_threshold``.
    """

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, argument: str, target: float, confidence: float | None = None) -> None:
        super().__init__(argument, target, confidence)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, batch: ImageBatch) -> None:
        """Keep the scores (N,) and labels (N,) of a batch.

        Raises:
            MetricError: If there are none, or a score is not finite.
        """
        scores, labels = self._labels_and(batch.pred_score, batch.gt_label)
        self.scores.append(scores.float().flatten())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """Threshold from all images so far, a tensor with one number.

        Raises:
            MetricError: If there is no normal image for a rate, or no anomalous one for a recall.
        """
        scores, labels = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.labels).cpu()
        of_recall = self.argument.endswith("recall")
        kind, hint = ("anomalous", USE_ANOMALIES) if of_recall else ("normal", USE_NORMAL_IMAGES)
        of_kind, others = (scores[labels], scores[~labels]) if of_recall else (scores[~labels], scores[labels])
        number = len(of_kind)
        if number == 0:
            msg = f"`{self.argument}` needs {kind} validation images, and there are none. {hint}"
            raise MetricError(msg)
        rate = round(1 - self.target, 12) if of_recall else self.target
        beyond = number_beyond(number, rate, self.confidence)
        if beyond == 0:
            place = "below" if of_recall else "above"
            missed = "anomalies missed" if of_recall else "false positives"
            self._warn(
                f"`{self.argument}` of {self.target:g} needs at least {samples_needed(rate, self.confidence)} {kind} "
                f"validation images, and there are {number}. The threshold is {place} all their scores, and the true "
                f"rate of {missed} may be up to {rate_bound(number, 1):.2g} (95 % confidence). Add validation images."
            )
        find = recall_threshold if of_recall else rate_threshold
        return torch.tensor(find(of_kind, self.target, confidence=self.confidence, others=others), device=self.device)


class PixelThreshold(_RateThreshold):
    """Threshold of anomaly maps for a false-positive rate of normal images' pixels, or a recall of masked pixels.

    Args:
        argument: Name of the target, also in messages: ``pixel_false_positive_rate`` or ``pixel_recall``.
        target: The rate or the recall, in (0, 1).
    """

    counts: list[Tensor]
    images: Tensor

    def __init__(self, argument: str, target: float) -> None:
        super().__init__(argument, target, None)
        # A list is empty until the first batch: exported models hold their metrics too.
        self.add_state("counts", default=[], dist_reduce_fx="cat")
        self.add_state("images", default=torch.tensor(0), dist_reduce_fx="sum")

    @property
    def _of_recall(self) -> bool:
        return self.argument.endswith("recall")

    def update(self, batch: ImageBatch) -> None:
        """Count the pixels of normal images, or of masks, in a batch's maps, (N, H, W) or (N, 1, H, W).

        Raises:
            MetricError: If there are no maps or labels, a pixel is not finite, or an anomalous image has no mask.
        """
        maps, labels = self._labels_and(batch.anomaly_map, batch.gt_label)
        if self._of_recall:
            # Of negative values: the share that a recall may miss becomes a share above the threshold.
            counts = histogram(-maps.flatten()[self._inside(batch.gt_mask, labels, maps)])
        else:
            counts = histogram(maps[~labels])
        self.counts = [self.counts[0] + counts if self.counts else counts]
        self.images = self.images + (labels if self._of_recall else ~labels).sum()

    def _inside(self, masks: Tensor | None, labels: Tensor, maps: Tensor) -> Tensor:
        """Whether each pixel (N * H * W,) is inside a mask."""
        if masks is None:
            if labels.any():
                hint = MASKS_OR_NONE.format(argument=self.argument)
                msg = f"`{self.argument}` needs masks of the anomalous validation images, and there are none. {hint}"
                raise MetricError(msg)
            return torch.zeros(maps.numel(), dtype=torch.bool, device=maps.device)
        return masks.to(maps.device, torch.bool).flatten()

    def compute(self) -> Tensor:
        """Threshold from all pixels so far, a tensor with one number.

        Raises:
            MetricError: If there is no normal image for a rate, or no anomalous pixel for a recall.
        """
        number = int(self.images.item())
        kind, hint = ("anomalous", USE_ANOMALIES) if self._of_recall else ("normal", USE_NORMAL_IMAGES)
        if number == 0:
            msg = f"`{self.argument}` needs {kind} validation images, and there are none. {hint}"
            raise MetricError(msg)
        counts: Any = dim_zero_cat(self.counts).view(-1, BINS).sum(0).cpu()
        if not counts.any():
            hint = MASKS_OR_NONE.format(argument=self.argument)
            msg = f"`{self.argument}` needs anomalous pixels, and all masks are empty. {hint}"
            raise MetricError(msg)
        rate = round(1 - self.target, 12) if self._of_recall else self.target
        needed = samples_needed(rate)
        if number < needed:
            # With fewer images there is no bound (conformal risk control, Angelopoulos et al., ICLR 2024): one more
            # image with all its pixels above the threshold would exceed the rate.
            self._warn(
                f"`{self.argument}` of {self.target:g} needs at least {needed} {kind} validation images, and there are "
                f"{number}. It holds for the pixels of these images, but may not for new ones. Add validation images."
            )
        threshold = torch.tensor(threshold_of(counts, rate), device=self.device)
        # A pixel at the threshold is normal, so the next lower number makes it anomalous.
        return -threshold.nextafter(torch.full_like(threshold, torch.inf)) if self._of_recall else threshold
