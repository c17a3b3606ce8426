"""Thresholds for a false-positive rate or a recall that the user chooses."""

from anomalib_ckaad.thresholds.order_statistics import rate_bound, rate_threshold, recall_threshold, samples_needed
from anomalib_ckaad.thresholds.post_processor import RatePostProcessor

__all__ = ["RatePostProcessor", "rate_bound", "rate_threshold", "recall_threshold", "samples_needed"]
