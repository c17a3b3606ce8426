"""RatePostProcessor: anomalib's post-processor, with thresholds for rates that a user names."""

import logging
from typing import Any

import lightning.pytorch as pl
from anomalib.metrics.threshold import Threshold
from anomalib.post_processing import PostProcessor

from anomalib_ckaad.thresholds.metrics import ImageThreshold, PixelThreshold

logger = logging.getLogger(__name__)

ARGUMENTS = ("image_false_positive_rate", "image_recall", "pixel_false_positive_rate", "pixel_recall", "confidence")


class RatePostProcessor(PostProcessor):
    """Thresholds for a false-positive rate or a recall, found on validation images, instead of those of the best F1.

    With n normal validation images, those to come of the same kind are called anomalous with a probability of at most
    ``image_false_positive_rate``, which takes n >= 1 / rate - 1; ``image_recall`` is the same for anomalies. It holds
    on average over validation sets, and with ``confidence`` for the very set at hand. All else is anomalib's:
    normalization puts the threshold at 0.5, and checkpoints and exported models hold it.

    Args:
        image_false_positive_rate: Share of normal images whose score may exceed the threshold, in (0, 1).
        image_recall: Share of anomalous images whose score shall exceed the threshold, in (0, 1).
        pixel_false_positive_rate: Share of the pixels of normal images whose anomaly map may exceed the threshold, in
            (0, 1): on the validation images, without guarantee for others. No masks are needed.
        pixel_recall: Share of the pixels inside the masks of anomalous images whose anomaly map shall exceed the
            threshold, in (0, 1); likewise without guarantee.
        confidence: Probability with which the image's rate or recall holds, in (0, 1). Default None: on average.

    A threshold that no argument is about is anomalib's. There is no sensitivity: it would undo the rates.

    Raises:
        ValueError: If an argument is not in (0, 1), both image arguments or both pixel arguments are given, or none
            of all.

    Example:
        >>> processor = RatePostProcessor(image_false_positive_rate=0.01, pixel_false_positive_rate=0.001)
        >>> processor.image_threshold  # no validation yet
        tensor(nan)
    """

    def __init__(
        self,
        image_false_positive_rate: float | None = None,
        image_recall: float | None = None,
        pixel_false_positive_rate: float | None = None,
        pixel_recall: float | None = None,
        confidence: float | None = None,
    ) -> None:
        super().__init__()
        self.image_false_positive_rate = image_false_positive_rate
        self.image_recall = image_recall
        self.pixel_false_positive_rate = pixel_false_positive_rate
        self.pixel_recall = pixel_recall
        self.confidence = confidence
        self._check()
        for name in ARGUMENTS[:-1]:
            target = getattr(self, name)
            if target is not None and name.startswith("image"):
                self._set_metric("image", ImageThreshold(name, target, confidence))
            elif target is not None:
                self._set_metric("pixel", PixelThreshold(name, target))

    def _set_metric(self, level: str, metric: Threshold) -> None:
        # anomalib has no argument for it, and takes thresholds from whatever metric these attributes hold.
        setattr(self, f"_{level}_threshold_metric", metric)

    def _check(self) -> None:
        given = {name: getattr(self, name) for name in ARGUMENTS if getattr(self, name) is not None}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                msg = f"Expected {name} to be a number in (0, 1), got {value!r}. Do change {name}."
                raise ValueError(msg)
        for level in ("image", "pixel"):
            rate, recall = f"{level}_false_positive_rate", f"{level}_recall"
            if rate in given and recall in given:
                msg = f"Expected {rate} or {recall}, got both, and there is one threshold. Do leave one of them out."
                raise ValueError(msg)
        if not given.keys() - {"confidence"}:
            msg = (
                f"Expected one of {', '.join(ARGUMENTS[:-1])}, got none. "
                "Do pass one, such as image_false_positive_rate 0.01."
            )
            raise ValueError(msg)

    def checkpoint_config(self) -> dict[str, Any]:
        """anomalib's configuration and the arguments, for ``Ckaad.load_from_checkpoint``."""
        return {**super().checkpoint_config(), **{name: getattr(self, name) for name in ARGUMENTS}}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Keep the own arguments: those of a checkpoint come to the constructor, or are deliberately others.

        anomalib's settings of the checkpoint, among them its sensitivities, would undo the rates.
        """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if no validation has set a threshold."""
        del trainer, pl_module
        if self.image_threshold.isnan():
            message = (
                "Expected validation images to take thresholds from, got none. Do pass val_split_mode: from_train."
            )
            logger.warning(message)


def post_processor_of(config: dict[str, Any] | None) -> RatePostProcessor | bool:
    """The post-processor that a checkpoint was written with: this one with its arguments, else True for anomalib's.

    Example:
        >>> post_processor_of({"enable_normalization": True})
        True
        >>> post_processor_of({"image_recall": 0.95}).image_recall
        0.95
    """
    arguments = {name: (config or {}).get(name) for name in ARGUMENTS}
    return RatePostProcessor(**arguments) if any(value is not None for value in arguments.values()) else True
