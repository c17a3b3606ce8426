"""The energy discriminator: small where features look normal, at least the margin where they do not."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from anomalib_ckaad.network.auto_encoder import Architecture
from anomalib_ckaad.network.channels_last import InstanceNorm, unit_length
from anomalib_ckaad.network.grad_checkpointing import checkpointed, is_checkpointing

NEGATIVE_SLOPE = 0.1


class PatchDiscriminator(nn.Module):
    """A signed score for every position of every stage; its absolute value is the energy of equation (11).

    Each stage has its own three bias-free 1x1 convolutions C -> C -> C -> 1 with LeakyReLU(0.1) between, on features
    normalized to unit length over the channels (reference code). Works for maps of any size.

    Args:
        channels: Channels of each stage, shallow to deep.
    """

    grad_checkpointing = False
    """Whether activations are computed again in the backward pass: see ``network.grad_checkpointing``."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c, kernel_size=1, bias=False),
                nn.LeakyReLU(NEGATIVE_SLOPE),
                nn.Conv2d(c, c, kernel_size=1, bias=False),
                nn.LeakyReLU(NEGATIVE_SLOPE),
                nn.Conv2d(c, 1, kernel_size=1, bias=False),
            )
            for c in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Score features, one tensor (N, C_k, H_k, W_k) a stage -> one tensor (N, H_k, W_k) a stage."""
        return [self._score(stage, f) for stage, f in zip(self.stages, features, strict=True)]

    def _score(self, stage: nn.Module, features: Tensor) -> Tensor:
        def compute(f: Tensor) -> Tensor:
            score: Tensor = stage(unit_length(f)).squeeze(1)
            return score

        return checkpointed(compute, features) if is_checkpointing(self) else compute(features)


class _Halving(nn.Sequential):
    """Half the size of a map."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / 2, W / 2)."""
        compute: Callable[[Tensor], Tensor] = super().forward
        return checkpointed(compute, x) if is_checkpointing(self) else compute(x)


def _halving(in_channels: int, out_channels: int) -> nn.Sequential:
    return _Halving(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        InstanceNorm(out_channels),
        nn.LeakyReLU(NEGATIVE_SLOPE),
    )


class ImageDiscriminator(nn.Module):
    """One signed score for a whole image; its absolute value is the energy of equation (8).

    Each stage goes through stride-2 3x3 convolutions with InstanceNorm and LeakyReLU(0.1) to the deepest stage's size;
    all are concatenated and go through such convolutions down to 2x2, a 2x2 convolution and two linear layers. The
    number of convolutions is fixed by ``deepest_size``; another size at run time is pooled to 2x2 at the end.

    Args:
        channels: Channels of each stage, shallow to deep.
        strides: Stride of each stage against the image, each a power of two times the one before.
        deepest_size: Height and width of the deepest stage's map for the usual image size.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], deepest_size: tuple[int, int]) -> None:
        super().__init__()
        width = channels[-1]
        self.to_deepest = nn.ModuleList()
        for c, stride in zip(channels, strides, strict=True):
            steps = round(math.log2(strides[-1] / stride))
            self.to_deepest.append(
                nn.Sequential(*[_halving(c if step == 0 else width, width) for step in range(steps)])
            )
        fused = sum(c if stride == strides[-1] else width for c, stride in zip(channels, strides, strict=True))
        halvings = max(0, math.ceil(math.log2(max(min(deepest_size), 2) / 2)))
        self.to_two = nn.Sequential(
            *[_halving(fused if step == 0 else width, width) for step in range(halvings)],
            nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Conv2d(width if halvings else fused, width, kernel_size=2, bias=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Flatten(),
            nn.Linear(width, width),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(width, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Score features, one tensor (N, C_k, H_k, W_k) a stage -> a list of one tensor (N,)."""
        height, width = features[-1].shape[-2:]
        maps = [stage(unit_length(f))[..., :height, :width] for stage, f in zip(self.to_deepest, features, strict=True)]
        return [self.head(self.to_two(torch.cat(maps, dim=1))).squeeze(1)]


def make_discriminator(
    kind: Literal["patch", "image"] | None, architecture: Architecture, image_size: Sequence[int]
) -> nn.Module | None:
    """The discriminator that a strategy asks for, with PyTorch's default initialization, or None.

    Args:
        kind: What it scores.
        architecture: Channels and strides of the stages.
        image_size: Height and width in pixels of the usual image.
    """
    if kind == "patch":
        return PatchDiscriminator(architecture.channels)
    if kind == "image":
        height, width = (math.ceil(side / architecture.strides[-1]) for side in image_size)
        return ImageDiscriminator(architecture.channels, architecture.strides, (height, width))
    return None
