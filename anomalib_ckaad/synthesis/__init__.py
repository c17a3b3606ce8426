"""Makers of anomalies, for training where no anomalous image is known."""

from anomalib_ckaad.synthesis.elastic import ElasticAnomalies
from anomalib_ckaad.synthesis.maker import AnomalyMaker

__all__ = ["AnomalyMaker", "ElasticAnomalies"]
