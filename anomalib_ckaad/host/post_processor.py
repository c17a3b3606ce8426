"""Where anomalib's post-processor keeps the metrics that its thresholds come from."""

from typing import Literal

from anomalib.metrics.threshold import Threshold
from anomalib.post_processing import PostProcessor


def set_threshold_metric(post_processor: PostProcessor, level: Literal["image", "pixel"], metric: Threshold) -> None:
    """Let a metric of your own set a post-processor's threshold.

    anomalib has no argument for it: ``PostProcessor`` reads the private attributes ``_image_threshold_metric`` and
    ``_pixel_threshold_metric``, which this function replaces.

    Args:
        post_processor: Changed in place.
        level: Which of both thresholds.
        metric: Is updated with every validation batch; its value is the threshold.

    Raises:
        AttributeError: If this version of anomalib keeps the metric elsewhere.
    """
    name = f"_{level}_threshold_metric"
    if not hasattr(post_processor, name):
        msg = f"anomalib's PostProcessor has no {name}, which thresholds for a rate replace."
        raise AttributeError(msg)
    setattr(post_processor, name, metric)
