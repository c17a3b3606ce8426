"""Values of arguments that go together: the paper's, and those that were measured to suit few epochs."""

from functools import cache
from typing import Literal, NamedTuple

from timm.models.resnet import ResNet

from anomalib_ckaad.backbone import build_on_meta

PresetName = Literal["paper", "measured"]


class Preset(NamedTuple):
    """Values for arguments that are not given.

    Attributes:
        learning_rate: Adam's, of the auto-encoder.
        discriminator_learning_rate: Adam's, of the discriminator.
        calibrate: Whether residuals are measured against those of normal training images.
    """

    learning_rate: float
    discriminator_learning_rate: float
    calibrate: bool


PRESETS: dict[PresetName, Preset] = {
    "paper": Preset(learning_rate=5e-3, discriminator_learning_rate=1e-4, calibrate=False),
    "measured": Preset(learning_rate=1e-3, discriminator_learning_rate=1e-3, calibrate=True),
}
"""By name; ``docs/accuracy.md`` has what was measured."""


@cache
def preset_of(backbone: str) -> PresetName:
    """The paper's for the ResNets that it was written for, the measured one for all others.

    Raises:
        ValueError: If timm does not know the backbone.

    Example:
        >>> preset_of("wide_resnet50_2"), preset_of("tf_efficientnet_lite0")
        ('paper', 'measured')
    """
    return "paper" if isinstance(build_on_meta(backbone), ResNet) else "measured"
