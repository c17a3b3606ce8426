"""Thresholds for a rate that a user can name: of false alarms among normal images, or of anomalies that are found."""

from anomalib_ckaad.thresholds.order_statistics import rate_bound, rate_threshold, recall_threshold, samples_needed
from anomalib_ckaad.thresholds.post_processor import RatePostProcessor

__all__ = ["RatePostProcessor", "rate_bound", "rate_threshold", "recall_threshold", "samples_needed"]
