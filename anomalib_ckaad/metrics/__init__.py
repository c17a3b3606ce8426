"""What is measured, on which scores, and where it is written."""

from anomalib_ckaad.metrics.evaluator import default_evaluator
from anomalib_ckaad.metrics.file import write_test_metrics
from anomalib_ckaad.metrics.raw_scores import add_predictions
from anomalib_ckaad.metrics.seen_unseen import SeenUnseenEvaluator

__all__ = ["SeenUnseenEvaluator", "add_predictions", "default_evaluator", "write_test_metrics"]
