"""Raw scores in a batch, beside those that the post-processor normalizes and clamps."""

from anomalib.data import ImageBatch, InferenceBatch
from torch import Tensor

RAW_SCORE = "raw_pred_score"
RAW_MAP = "raw_anomaly_map"


def add_predictions(batch: ImageBatch, predictions: InferenceBatch) -> ImageBatch:
    """Put predictions into the batch, and once more under names that no post-processor touches.

    Args:
        batch: Changed in place.
        predictions: Image scores (N,) and anomaly maps (N, 1, H, W).

    Returns:
        The batch, with ``raw_pred_score`` (N,) and ``raw_anomaly_map`` (N, H, W).
    """
    batch.update(**predictions._asdict())
    # batch.update drops names that the data class does not declare, without a word.
    setattr(batch, RAW_SCORE, predictions.pred_score)
    setattr(batch, RAW_MAP, None if predictions.anomaly_map is None else predictions.anomaly_map.squeeze(1))
    return batch


def raw_scores(batch: ImageBatch) -> tuple[Tensor, Tensor]:
    """Raw image scores (N,) and maps (N, H, W) that ``add_predictions`` left in a batch.

    Raises:
        AttributeError: If no model that keeps raw scores has seen the batch.
    """
    return getattr(batch, RAW_SCORE), getattr(batch, RAW_MAP)
