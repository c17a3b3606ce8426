"""RatePostProcessor: anomalib's post-processor with thresholds for a false-positive rate or a recall."""

import logging
from typing import Any

import lightning.pytorch as pl
from anomalib.post_processing import PostProcessor

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.host.post_processor import set_threshold_metric
from anomalib_ckaad.thresholds.metrics import ImageThreshold, PixelThreshold

logger = logging.getLogger(__name__)

ARGUMENTS = ("image_false_positive_rate", "image_recall", "pixel_false_positive_rate", "pixel_recall", "confidence")


class RatePostProcessor(PostProcessor):
    """Sets thresholds for a false-positive rate or a recall on validation images, instead of the best F1.

    New normal images, of the same kind as the validation images, exceed the threshold with a probability of at most
    ``image_false_positive_rate``. This needs at least 1 / rate - 1 normal validation images. ``image_recall`` is the
    same for anomalous images. The probability is an average over validation sets; with ``confidence`` it holds for the
    validation set at hand. Everything else is as in anomalib: normalization puts the threshold at 0.5, and checkpoints
    and exported models contain it.

    A threshold without an argument stays anomalib's. There is no sensitivity: it would change the rates.

    Args:
        image_false_positive_rate: Share of normal images whose score may exceed the threshold, in (0, 1).
        image_recall: Share of anomalous images whose score must exceed the threshold, in (0, 1).
        pixel_false_positive_rate: Share of the pixels of normal images whose anomaly map may exceed the threshold, in
            (0, 1). It holds for the validation images, without a guarantee for new ones. Needs no masks.
        pixel_recall: Share of the masked pixels of anomalous images whose anomaly map must exceed the threshold, in
            (0, 1). It holds for the validation images, without a guarantee for new ones.
        confidence: Probability, in (0, 1), that the rate or recall of images holds for this validation set. Default
            None: it holds on average.

    Raises:
        ConfigurationError: If an argument is not in (0, 1), if a rate and a recall are given for the same threshold, or
            if there is neither a rate nor a recall.

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
                set_threshold_metric(self, "image", ImageThreshold(name, target, confidence))
            elif target is not None:
                set_threshold_metric(self, "pixel", PixelThreshold(name, target))

    def _check(self) -> None:
        given = {name: getattr(self, name) for name in ARGUMENTS if getattr(self, name) is not None}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                msg = f"`{name}` must be a number between 0 and 1, not {value!r}."
                raise ConfigurationError(msg)
        for level in ("image", "pixel"):
            rate, recall = f"{level}_false_positive_rate", f"{level}_recall"
            if rate in given and recall in given:
                msg = f"Pass either `{rate}` or `{recall}`, not both: they set the same threshold."
                raise ConfigurationError(msg)
        if not given.keys() - {"confidence"}:
            msg = f"Pass at least one of {', '.join(ARGUMENTS[:-1])}, for example `image_false_positive_rate` 0.01."
            raise ConfigurationError(msg)

    def checkpoint_config(self) -> dict[str, Any]:
        """anomalib's configuration and the arguments, for ``Ckaad.load_from_checkpoint``."""
        return {**super().checkpoint_config(), **{name: getattr(self, name) for name in ARGUMENTS}}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Keep the arguments of the constructor: ``Ckaad.load_from_checkpoint`` has passed those of the checkpoint.

        anomalib's settings in the checkpoint, such as sensitivities, would change the rates.
        """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if no validation has set a threshold."""
        del trainer, pl_module
        if self.image_threshold.isnan():
            logger.warning(
                "No threshold was set, because there was no validation. Validate on normal images, for example with "
                "`val_split_mode: from_train`."
            )


def post_processor_of(config: dict[str, Any] | None) -> RatePostProcessor | bool:
    """The post-processor for a checkpoint: ``RatePostProcessor`` with its arguments, or True for anomalib's.

    Args:
        config: The checkpoint's ``checkpoint_config``, or None.

    Example:
        >>> post_processor_of({"enable_normalization": True})
        True
        >>> post_processor_of({"image_recall": 0.95}).image_recall
        0.95
    """
    arguments = {name: (config or {}).get(name) for name in ARGUMENTS}
    return RatePostProcessor(**arguments) if any(value is not None for value in arguments.values()) else True
