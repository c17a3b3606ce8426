"""Data sets: known anomalies for any of them, and textures that need no download."""

from anomalib_ckaad.data.known_anomalies import KnownAnomalies
from anomalib_ckaad.data.textures import Textures

__all__ = ["KnownAnomalies", "Textures"]
