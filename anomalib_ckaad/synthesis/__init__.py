"""Makers of anomalies, for training where no anomalous image is known."""

from anomalib_ckaad.synthesis.elastic import ElasticAnomalies
from anomalib_ckaad.synthesis.maker import AnomalyMaker
from anomalib_ckaad.synthesis.synthetic import SyntheticAnomalies

__all__ = ["AnomalyMaker", "ElasticAnomalies", "SyntheticAnomalies"]
