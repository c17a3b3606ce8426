"""Antialiased resizing that torch, ONNX Runtime and OpenVINO compute alike, at any height and width."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Resize, Transform


def resize_matrix(pixels: int, size: int, like: Tensor) -> Tensor:
    """Weights of antialiased linear resizing along one axis.

    Row i is a triangle around the center of output pixel i, as wide as the pixels that become one, cut at the border
    and normalized to one: what ``interpolate(..., mode="bilinear", antialias=True)`` computes.

    Args:
        pixels: Number of pixels before; symbolic while a graph with dynamic shapes is exported.
        size: Number of pixels after.
        like: Gives dtype and device.

    Returns:
        (size, pixels), each row with a sum of 1.

    Example:
        >>> resize_matrix(4, 2, torch.zeros(1))
        tensor([[0.4286, 0.4286, 0.1429, 0.0000],
                [0.0000, 0.1429, 0.4286, 0.4286]])
    """
    # Distances of centers in units of 1 / (2 * pixels * size) pixels are whole numbers, which float32 holds exactly up
    # to 2^24. As fractions they would depend on how each runtime rounds a division.
    before = (2 * torch.arange(pixels, device=like.device) + 1) * size
    after = (2 * torch.arange(size, device=like.device) + 1) * pixels
    reach: Any = 2 * torch.sym_max(pixels, size)  # an int, or a symbol
    distances = (before - after[:, None]).abs().to(like)
    weights = torch.clamp(1 - distances / reach, min=0)
    return weights / weights.sum(dim=1, keepdim=True)


class ExactResize(nn.Module):
    """``Resize(size, antialias=True)`` as two matrix products, for graphs that are exported.

    ONNX's Resize has antialiasing, but OpenVINO reads it as one without, and says nothing.

    Args:
        size: Height and width in pixels of what comes out.

    Example:
        >>> ExactResize((32, 48))(torch.rand(1, 3, 100, 81)).shape
        torch.Size([1, 3, 32, 48])
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Resize images (N, C, H, W) of floating-point numbers to (N, C, *size)."""
        if all(_fits(pixels, size) for pixels, size in zip(images.shape[-2:], self.size, strict=True)):
            return images
        # Each product is followed by a transposition: quantization takes a product with something added, as the mean
        # is in normalization, for a layer with a bias, and fails to correct that.
        for size in reversed(self.size):
            if not _fits(images.shape[-1], size):
                images = images @ resize_matrix(images.shape[-1], size, images).mT
            images = images.mT
        return images


def _fits(pixels: object, size: int) -> bool:
    """Whether a side needs no product. Comparing one that is a symbol would tie the graph to the example's."""
    return isinstance(pixels, int) and pixels == size


def exact_resizes(transform: Transform | nn.Module | None, exported: nn.Module | None) -> nn.Module | None:
    """Put the antialiasing back that anomalib takes out of a transform for export.

    Args:
        transform: What images go through in training.
        exported: The same, as anomalib exports it: any Resize without antialiasing.

    Returns:
        ``exported`` with an ``ExactResize`` for each bilinear, antialiased Resize to a height and a width. Others, such
        as bicubic ones, stay as they are.
    """
    if isinstance(transform, Compose) and isinstance(exported, Compose):
        pairs = zip(transform.transforms, exported.transforms, strict=True)
        return nn.Sequential(*[module for pair in pairs if (module := exact_resizes(*pair)) is not None])
    if isinstance(transform, Resize) and _is_covered(transform):
        return ExactResize((transform.size[0], transform.size[1]))
    return exported


def _is_covered(resize: Resize) -> bool:
    """Whether ``ExactResize`` computes the same; a single number in ``size`` is that of the shorter side."""
    mode = getattr(resize.interpolation, "value", resize.interpolation)  # text or enum, by version
    return bool(resize.antialias) and len(resize.size) == 2 and mode == "bilinear"  # noqa: PLR2004
