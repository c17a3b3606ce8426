"""Raw scores in a batch, next to those that the post-processor normalizes and clamps."""

from anomalib.data import ImageBatch, InferenceBatch
from torch import Tensor

from anomalib_ckaad.errors import MetricError

RAW_SCORE = "raw_pred_score"
RAW_MAP = "raw_anomaly_map"


def add_predictions(batch: ImageBatch, predictions: InferenceBatch) -> ImageBatch:
    """Put predictions into the batch, and a second time under names that no post-processor changes.

    Args:
        batch: Changed in place.
        predictions: Image scores (N,) and anomaly maps (N, 1, H, W).

    Returns:
        The batch, with ``raw_pred_score`` (N,) and ``raw_anomaly_map`` (N, H, W).
    """
    batch.update(**predictions._asdict())
    # batch.update silently drops names that the data class does not declare.
    setattr(batch, RAW_SCORE, predictions.pred_score)
    setattr(batch, RAW_MAP, None if predictions.anomaly_map is None else predictions.anomaly_map.squeeze(1))
    return batch


def raw_scores(batch: ImageBatch) -> tuple[Tensor, Tensor]:
    """Raw image scores (N,) and maps (N, H, W) that ``add_predictions`` has put into a batch.

    Raises:
        MetricError: If the batch does not come from a model that keeps raw scores.
    """
    if not hasattr(batch, RAW_SCORE):
        msg = "A batch has no raw scores. Only Ckaad keeps them; use another evaluator for other models."
        raise MetricError(msg)
    return getattr(batch, RAW_SCORE), getattr(batch, RAW_MAP)
