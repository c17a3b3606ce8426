"""Threshold metrics as anomalib's post-processor uses them: fed with validation batches, read at an epoch's end."""

import logging
from typing import Any, Literal

import torch
from anomalib.data import ImageBatch
from anomalib.metrics.threshold import Threshold
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

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
USE_NORMAL_IMAGES = "Do validate on normal images, such as with val_split_mode: from_train"
USE_ANOMALIES = "Do validate on some anomalous images, such as with val_split_mode: from_test"
GIVE_MASKS = "Do pass mask_dir, or leave it out"


class _RateThreshold(Threshold):
    """What the metrics share: the target, the labels, and warnings that come once and not with every epoch."""

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
            ValueError: If there are none, or some are not finite.
        """
        if scores is None or labels is None:
            missing = "no scores" if scores is None else "no labels"
            msg = f"Expected labeled validation images for {self.argument}, got {missing}. {USE_NORMAL_IMAGES}."
            raise ValueError(msg)
        wrong = int((~torch.isfinite(scores)).sum().item())
        if wrong:
            msg = (
                f"Expected finite scores of validation images for {self.argument}, got {wrong} that are not. "
                "Do lower learning_rate, and train again."
            )
            raise ValueError(msg)
        return scores.detach(), labels.to(scores.device, torch.bool).flatten()

    def _warn(self, text: str) -> None:
        if text != self._warned:
            logger.warning(text)
            self._warned = text


class ImageThreshold(_RateThreshold):
    """Threshold of image scores for a false-positive rate of normal images or a recall of anomalous ones.

    Args:
        argument: Name that messages give it: ``image_false_positive_rate`` or ``image_recall``.
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
            ValueError: If there are none, or a score is not finite.
        """
        scores, labels = self._labels_and(batch.pred_score, batch.gt_label)
        self.scores.append(scores.float().flatten())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """Threshold of all images so far, a number.

        Raises:
            ValueError: If no image is of the kind that the target is about.
        """
        scores, labels = dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.labels).cpu()
        of_recall = self.argument.endswith("recall")
        kind, hint = ("anomalous", USE_ANOMALIES) if of_recall else ("normal", USE_NORMAL_IMAGES)
        of_kind, others = (scores[labels], scores[~labels]) if of_recall else (scores[~labels], scores[labels])
        number = len(of_kind)
        if number == 0:
            msg = f"Expected {kind} validation images for {self.argument}, got none. {hint}."
            raise ValueError(msg)
        rate = round(1 - self.target, 12) if of_recall else self.target
        beyond = number_beyond(number, rate, self.confidence)
        if beyond == 0:
            self._warn(
                f"Expected at least {samples_needed(rate, self.confidence)} {kind} validation images for "
                f"{self.argument} {self.target:g}, got {number}. The threshold passes all of them by a hundredth of "
                f"their range, and the true rate may be up to {rate_bound(number, 1):.2g} (95 % confidence). "
                "Do add images."
            )
        find = recall_threshold if of_recall else rate_threshold
        return torch.tensor(find(of_kind, self.target, confidence=self.confidence, others=others), device=self.device)


class PixelThreshold(_RateThreshold):
    """Threshold of anomaly maps for a share of the pixels of normal images, or of those inside anomalies' masks.

    Args:
        argument: Name that messages give it: ``pixel_false_positive_rate`` or ``pixel_recall``.
        target: The share of pixels that exceed the threshold, at most or at least, in (0, 1).
    """

    counts: list[Tensor]
    images: Tensor

    def __init__(self, argument: str, target: float) -> None:
        super().__init__(argument, target, None)
        # A list, as its default takes no memory: exported models hold their metrics too.
        self.add_state("counts", default=[], dist_reduce_fx="cat")
        self.add_state("images", default=torch.tensor(0), dist_reduce_fx="sum")

    @property
    def _of_recall(self) -> bool:
        return self.argument.endswith("recall")

    def update(self, batch: ImageBatch) -> None:
        """Count the pixels that matter of a batch's maps, (N, H, W) or (N, 1, H, W).

        Raises:
            ValueError: If there are no maps or labels, a pixel is not finite, or an anomalous image has no mask.
        """
        maps, labels = self._labels_and(batch.anomaly_map, batch.gt_label)
        if self._of_recall:
            # Negative values: what a recall may miss is then what a rate may exceed.
            counts = histogram(-maps.flatten()[self._inside(batch.gt_mask, labels, maps)])
        else:
            counts = histogram(maps[~labels])
        self.counts = [self.counts[0] + counts if self.counts else counts]
        self.images = self.images + (labels if self._of_recall else ~labels).sum()

    def _inside(self, masks: Tensor | None, labels: Tensor, maps: Tensor) -> Tensor:
        """Whether each pixel (N * H * W,) is inside a mask."""
        if masks is None:
            if labels.any():
                msg = f"Expected masks of the anomalous validation images for {self.argument}, got none. {GIVE_MASKS}."
                raise ValueError(msg)
            return torch.zeros(maps.numel(), dtype=torch.bool, device=maps.device)
        return masks.to(maps.device, torch.bool).flatten()

    def compute(self) -> Tensor:
        """Threshold of all pixels so far, a number.

        Raises:
            ValueError: If no image is normal, or for a recall no pixel anomalous.
        """
        number = int(self.images.item())
        kind, hint = ("anomalous", USE_ANOMALIES) if self._of_recall else ("normal", USE_NORMAL_IMAGES)
        if number == 0:
            msg = f"Expected {kind} validation images for {self.argument}, got none. {hint}."
            raise ValueError(msg)
        counts: Any = dim_zero_cat(self.counts).view(-1, BINS).sum(0).cpu()
        if not counts.any():
            msg = f"Expected masks of anomalous pixels for {self.argument}, got empty ones. {GIVE_MASKS}."
            raise ValueError(msg)
        rate = round(1 - self.target, 12) if self._of_recall else self.target
        needed = samples_needed(rate)
        if number < needed:
            # Conformal risk control (Angelopoulos et al., ICLR 2024): no bound below this number exists, as one more
            # image that is above the threshold all over would exceed the rate.
            self._warn(
                f"Expected at least {needed} {kind} validation images for {self.argument} {self.target:g}, got "
                f"{number}. The rate is that of their pixels, and new images may differ. Do add images."
            )
        threshold = torch.tensor(threshold_of(counts, rate), device=self.device)
        # A pixel is called anomalous above the threshold, not at it.
        return -threshold.nextafter(torch.full_like(threshold, torch.inf)) if self._of_recall else threshold
