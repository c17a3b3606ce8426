"""Values of arguments that go together: the paper's, and those that were measured to suit a few hundred steps."""

from functools import cache
from typing import Literal, NamedTuple

from timm.models.resnet import ResNet

from anomalib_ckaad.network.backbone import build_on_meta
from anomalib_ckaad.scoring.anomaly_map import TopK

PresetName = Literal["paper", "measured"]


class Preset(NamedTuple):
    """Values for arguments that are not given.

    Attributes:
        layers: Stages to reconstruct.
        steps: Training steps, rounded up to whole epochs; None for the paper's number of epochs.
        learning_rate: Adam's, of the auto-encoder.
        discriminator_learning_rate: Adam's, of the discriminator.
        calibrate: Whether residuals are measured against those of normal training images.
        score_top_k: How the image score is made of the map.
        synthesis: Whether batches without known anomalies get synthetic ones.
    """

    layers: tuple[int, ...]
    steps: int | None
    learning_rate: float
    discriminator_learning_rate: float
    calibrate: bool
    score_top_k: TopK
    synthesis: bool


PAPER_EPOCHS = {"MVTecAD": 400, "Visa": 400}
"""The paper's number of epochs by the class of the data, where ``steps`` is None."""
PAPER_EPOCHS_ELSEWHERE = 200
PRESETS: dict[PresetName, Preset] = {
    "paper": Preset(
        (1, 2, 3),
        steps=None,
        learning_rate=5e-3,
        discriminator_learning_rate=1e-4,
        calibrate=False,
        score_top_k=100,
        synthesis=True,
    ),
    "measured": Preset(
        (2, 3),
        steps=400,
        learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        calibrate=True,
        score_top_k="power_mean",
        synthesis=False,
    ),
}
"""By name; ``docs/accuracy.md`` has what was measured."""


@cache
def preset_of(backbone: str) -> PresetName:
    """The paper's for the ResNets that it was written for, the measured one for all others.

    Raises:
        ConfigurationError: If timm does not know the backbone.

    Example:
        >>> preset_of("wide_resnet50_2"), preset_of("tf_efficientnet_lite0")
        ('paper', 'measured')
    """
    return "paper" if isinstance(build_on_meta(backbone), ResNet) else "measured"
