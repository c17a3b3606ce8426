"""What is measured, on which scores, and where it is written."""

from anomalib_ckaad.metrics.auroc import AUROC
from anomalib_ckaad.metrics.evaluator import default_evaluator
from anomalib_ckaad.metrics.file import write_test_metrics
from anomalib_ckaad.metrics.per_group import PerGroup
from anomalib_ckaad.metrics.raw_scores import add_predictions
from anomalib_ckaad.metrics.seen_unseen import SeenUnseenEvaluator
from anomalib_ckaad.metrics.streaming import (
    StreamingAP,
    StreamingAUPRO,
    StreamingAUROC,
    StreamingF1Max,
    mAcc,
    mF1,
    mIoU,
    mIoU_max,
)
from anomalib_ckaad.metrics.summary import AccuracyAtF1Max, mAD
from anomalib_ckaad.metrics.threshold_range import threshold_range_scores

__all__ = [
    "AUROC",
    "AccuracyAtF1Max",
    "PerGroup",
    "SeenUnseenEvaluator",
    "StreamingAP",
    "StreamingAUPRO",
    "StreamingAUROC",
    "StreamingF1Max",
    "add_predictions",
    "default_evaluator",
    "mAD",
    "mAcc",
    "mF1",
    "mIoU",
    "mIoU_max",
    "threshold_range_scores",
    "write_test_metrics",
]
