"""Data sets: known anomalies for any of them, the paper's own, and textures that need no download."""

from anomalib_ckaad.data.known.known_anomalies import KnownAnomalies
from anomalib_ckaad.data.paper.br35h import Br35H
from anomalib_ckaad.data.paper.chest_xray import ChestXray
from anomalib_ckaad.data.paper.cifar10 import CIFAR10OneClass
from anomalib_ckaad.data.paper.isic2018 import ISIC2018
from anomalib_ckaad.data.paper.oct2017 import OCT2017
from anomalib_ckaad.data.textures.textures import Textures

__all__ = ["ISIC2018", "OCT2017", "Br35H", "CIFAR10OneClass", "ChestXray", "KnownAnomalies", "Textures"]
