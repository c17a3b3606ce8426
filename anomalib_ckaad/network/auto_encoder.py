"""The feature auto-encoder: fuses the chosen stages, squeezes them through a bottleneck and gives each one back.

For ResNets it is the reference's architecture exactly; for other backbones the widths follow what the backbone itself
reports from stage to stage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.network.channels_last import InstanceNorm
from anomalib_ckaad.network.grad_checkpointing import checkpointed, is_checkpointing

NormName = Literal["instance", "batch"]
Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """What the auto-encoder has to know about a backbone; sequences run from the shallow stage to the deep one.

    Attributes:
        channels: Channels of each chosen stage.
        strides: Stride of each chosen stage against the image.
        widths: Channels at every stride from the shallowest chosen stage on, one more than the deepest chosen: the
            bottleneck's. Levels between chosen stages take theirs from here.
        block: Kind of residual block.
        width_ratio: Inner width of a bottleneck block over its output channels.
        groups: Groups of a bottleneck block's 3x3 convolution.
        encoder_depth: Blocks of the bottleneck.
        decoder_depths: Blocks of each level of the decoder, from the deep one up; the last holds for all above.
        output_relu: Whether a reconstruction ends in a ReLU, as features that are never negative want it.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    widths: dict[int, int]
    block: Literal["basic", "bottleneck"] = "basic"
    width_ratio: float = 0.25
    groups: int = 1
    encoder_depth: int = 2
    decoder_depths: tuple[int, ...] = (2,)
    output_relu: bool = True

    @property
    def smallest_side(self) -> int:
        """Smallest image side in pixels: the deepest map must be 3 pixels wide for the bottleneck to have two."""
        return 3 * self.strides[-1]


def make_norm(name: NormName) -> Norm:
    """Affine normalization layer by name; ``instance`` is the method, ``batch`` an ablation."""
    if name == "instance":
        return InstanceNorm
    return nn.BatchNorm2d


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )


def _doubling(in_channels: int, out_channels: int, groups: int = 1) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2, groups=groups, bias=False)


class ResidualBlock(nn.Module):
    """ResNet's basic or bottleneck block, optionally halving or doubling the map's size.

    Halving is a stride in the first 3x3 convolution. Doubling puts a 2x2 stride-2 transposed convolution in the place
    of the basic block's first convolution or the bottleneck's middle one, and in the shortcut.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        architecture: Kind of block, its inner width and groups.
        norm: Normalization layer by channels.
        scale: What the block does to the size of the map.
        relu: Whether the sum passes a ReLU.
    """

    grad_checkpointing = False
    """Whether training keeps the block's input alone: see ``network.grad_checkpointing``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        architecture: Architecture,
        norm: Norm,
        scale: Literal["half", "same", "double"] = "same",
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()

        def resize(c_in: int, c_out: int, groups: int = 1) -> nn.Module:
            if scale == "double":
                return _doubling(c_in, c_out, groups)
            return _convolution(c_in, c_out, 3, stride=2 if scale == "half" else 1, groups=groups)

        if architecture.block == "basic":
            convolutions = [resize(in_channels, out_channels), _convolution(out_channels, out_channels, 3)]
            widths = [out_channels, out_channels]
        else:
            inner = round(out_channels * architecture.width_ratio)
            convolutions = [
                _convolution(in_channels, inner, 1),
                resize(inner, inner, architecture.groups),
                _convolution(inner, out_channels, 1),
            ]
            widths = [inner, inner, out_channels]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(norm(width) for width in widths)
        self.shortcut: nn.Module = nn.Identity()
        if scale == "double":
            self.shortcut = nn.Sequential(_doubling(in_channels, out_channels), norm(out_channels))
        elif scale == "half" or in_channels != out_channels:
            stride = 2 if scale == "half" else 1
            self.shortcut = nn.Sequential(_convolution(in_channels, out_channels, 1, stride), norm(out_channels))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        return checkpointed(self._compute, x, self) if is_checkpointing(self) else self._compute(x)

    def _compute(self, x: Tensor) -> Tensor:
        out = x
        last = len(self.convolutions) - 1
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            out = norm(convolution(out))
            if index < last:
                out = functional.relu(out)
        out = out + self.shortcut(x)
        return functional.relu(out) if self.relu else out


def _fit(x: Tensor, height: int, width: int) -> Tensor:
    """Crop to a size; where a backbone rounds sizes down, repeat the edge for the row or column that is missing."""
    x = x[..., :height, :width]
    # Under export with dynamic shapes sizes are symbols: comparing them would fix them to the example's.
    if all(isinstance(side, int) for side in (height, width, *x.shape[-2:])):
        missing_rows, missing_columns = height - x.shape[-2], width - x.shape[-1]
        if missing_rows or missing_columns:
            x = functional.pad(x, (0, missing_columns, 0, missing_rows), mode="replicate")
    return x


class FeatureAutoEncoder(nn.Module):
    """Features of the chosen stages -> their reconstructions, of the same shapes.

    Args:
        architecture: Channels, strides and blocks.
        norm: ``"instance"`` (the method) or ``"batch"``.

    Attributes:
        grad_checkpointing: Whether the fusion is computed again in the backward pass.

    Raises:
        ConfigurationError: If two chosen stages' strides are not a power of two apart.
    """

    grad_checkpointing = False

    def __init__(self, architecture: Architecture, norm: NormName = "instance") -> None:
        super().__init__()
        self.architecture = architecture
        make = make_norm(norm)
        strides, channels, widths = architecture.strides, architecture.channels, architecture.widths
        deepest = strides[-1]
        for stride in strides:
            if 2 ** round(math.log2(deepest / stride)) * stride != deepest:
                msg = (
                    f"The strides of the chosen layers, {strides}, are not powers of two apart. "
                    "Choose `layers` whose maps halve from one to the next."
                )
                raise ConfigurationError(msg)

        self.fusion = nn.ModuleList()
        fused = 0
        for c, stride in zip(channels, strides, strict=True):
            steps: list[nn.Module] = []
            current = c
            while stride < deepest:
                stride *= 2  # noqa: PLW2901 - walks down to the deepest stage
                steps.append(
                    nn.Sequential(_convolution(current, widths[stride], 3, stride=2), make(widths[stride]), nn.ReLU())
                )
                current = widths[stride]
            self.fusion.append(nn.Sequential(*steps))
            fused += current

        bottleneck_width = widths[2 * deepest]
        self.bottleneck = nn.Sequential(
            ResidualBlock(fused, bottleneck_width, architecture, make, "half"),
            *[
                ResidualBlock(bottleneck_width, bottleneck_width, architecture, make)
                for _ in range(architecture.encoder_depth - 1)
            ],
        )

        self.decoder = nn.ModuleList()
        self.stage_of_level: list[int | None] = []
        current, stride, level = bottleneck_width, 2 * deepest, 0
        for stage in reversed(range(len(strides))):
            while stride > strides[stage]:
                stride //= 2
                is_stage = stride == strides[stage]
                width = channels[stage] if is_stage else widths[stride]
                self._add_level(current, width, "double", level, make, is_stage=is_stage)
                self.stage_of_level.append(stage if is_stage else None)
                current, level = width, level + 1
            if self.stage_of_level[-1] != stage:  # a second stage of the same stride needs a level of its own
                self._add_level(current, channels[stage], "same", level, make, is_stage=True)
                self.stage_of_level.append(stage)
                current, level = channels[stage], level + 1

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _add_level(
        self, current: int, width: int, scale: Literal["same", "double"], level: int, norm: Norm, *, is_stage: bool
    ) -> None:
        depths = self.architecture.decoder_depths
        depth = depths[min(level, len(depths) - 1)]
        blocks = [
            ResidualBlock(
                current if index == 0 else width,
                width,
                self.architecture,
                norm,
                scale if index == 0 else "same",
                relu=self.architecture.output_relu or not is_stage or index < depth - 1,
            )
            for index in range(depth)
        ]
        self.decoder.append(nn.Sequential(*blocks))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Reconstruct the features, one tensor (N, C_k, H_k, W_k) a stage, shallow to deep."""
        height, width = features[-1].shape[-2:]
        is_saving = is_checkpointing(self)
        steps = zip(self.fusion, features, strict=True)
        mapped = [checkpointed(step, f, step) if is_saving else step(f) for step, f in steps]
        fused = [_fit(x, height, width) for x in mapped]
        x = self.bottleneck(torch.cat(fused, dim=1))
        reconstructions: list[Tensor] = [x] * len(features)
        for level, stage in zip(self.decoder, self.stage_of_level, strict=True):
            x = level(x)
            if stage is not None:
                x = _fit(x, *features[stage].shape[-2:])
                reconstructions[stage] = x
        return reconstructions
