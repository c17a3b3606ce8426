"""Metrics, the scores they are computed from, and the file they are written to.

All metrics take raw scores: anomalib's post-processor clamps the others, which creates ties.

To add a metric:
 1. Write a pure function of scores and labels (image metrics: next to ``ranking_scores`` in ``summary.py``) or a method
    of ``PixelCounts`` in ``pixel_counts.py`` (pixel metrics of any number of images).
 2. Add a thin class over it: ``class Name(AnomalibMetric, ...)`` on ``ImageScores`` (``image_scores.py``) or
    ``PixelMetric`` (``streaming.py``), which keep what is needed and add it up over processes.
 3. List the class below, and compare it with scikit-learn in ``tests/test_summary_metrics.py`` or
    ``tests/test_pixel_metrics.py``; add it to ``STREAMING`` in
    ``tests/slow/test_metric_processes.py``, which tests it with two processes.
"""

from anomalib_ckaad.metrics.auroc import AUROC, auroc
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
    "auroc",
    "default_evaluator",
    "mAD",
    "mAcc",
    "mF1",
    "mIoU",
    "mIoU_max",
    "threshold_range_scores",
    "write_test_metrics",
]
