"""What is measured, on which scores, and where it is written."""

from anomalib_ckaad.metrics.evaluator import default_evaluator
from anomalib_ckaad.metrics.file import write_metrics

__all__ = ["default_evaluator", "write_metrics"]
