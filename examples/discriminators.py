"""Ckaad with a normalized discriminator, for examples/discriminators.yaml, which compares it with the package's."""

from typing import Any, Literal

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from anomalib_ckaad import Ckaad
from anomalib_ckaad.network.channels_last import InstanceNorm


class NormalizedCkaad(Ckaad):
    """Ckaad whose patch discriminator has spectral or instance normalization in all layers but the last.

    The last one is free in either: its energies have to reach the margin.

    Args:
        normalization: Which.
        **kwargs: As Ckaad's.
    """

    def __init__(self, normalization: Literal["spectral", "instance"] = "spectral", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        if self.discriminator is None:
            return
        for stage in self.discriminator.stages:
            for index in (0, 2):
                if normalization == "spectral":
                    spectral_norm(stage[index])
                else:
                    stage[index + 1] = nn.Sequential(InstanceNorm(stage[index].out_channels), stage[index + 1])
