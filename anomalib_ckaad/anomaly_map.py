"""Equation (14): from features and their reconstructions to an anomaly map, and from the map to an image score."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BLUR_SIGMA = 4.0
"""Standard deviation of the blur in pixels of the map, as in the reference code."""


def stage_map(features: Tensor, reconstruction: Tensor) -> Tensor:
    """One stage of equation (14): 1 - cosine over the channels at every position.

    Args:
        features: (N, C, H, W).
        reconstruction: (N, C, H, W).

    Returns:
        (N, 1, H, W), each value in [0, 2].
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    return 1 - torch.cosine_similarity(features.to(dtype), reconstruction.to(dtype), dim=1).unsqueeze(1)


def gaussian_kernel(sigma: float, truncate: float = 4.0) -> Tensor:
    """One-dimensional Gaussian in float64 that sums to one, cut at ``truncate`` standard deviations.

    Example:
        >>> gaussian_kernel(4.0).shape
        torch.Size([33])
    """
    radius = int(truncate * sigma + 0.5)
    position = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (position / sigma) ** 2)
    return kernel / kernel.sum()


def _mirror(size: int, radius: int, device: torch.device) -> Tensor:
    """Indices that continue a line of ``size`` pixels by ``radius`` on both sides as … 1 0 | 0 1 2 … ."""
    position = torch.arange(-radius, size + radius, device=device) % (2 * size)
    return torch.where(position < size, position, 2 * size - 1 - position)


def gaussian_blur(image: Tensor, sigma: float = BLUR_SIGMA) -> Tensor:
    """Blur as ``scipy.ndimage.gaussian_filter`` does: cut at 4 sigma, the border mirrored with the edge pixel repeated.

    Written with gathers and two plain convolutions, which stay exact when exported with dynamic height and width.

    Args:
        image: (N, 1, H, W).
        sigma: Standard deviation in pixels; 0 leaves the image as it is.

    Returns:
        (N, 1, H, W).
    """
    if sigma == 0:
        return image
    kernel = gaussian_kernel(sigma).to(image)
    radius = len(kernel) // 2
    height, width = image.shape[-2:]
    image = image.index_select(-2, _mirror(height, radius, image.device))
    image = functional.conv2d(image, kernel.view(1, 1, -1, 1))
    image = image.index_select(-1, _mirror(width, radius, image.device))
    return functional.conv2d(image, kernel.view(1, 1, 1, -1))


def anomaly_map(
    features: Sequence[Tensor], reconstructions: Sequence[Tensor], size: tuple[int, int], sigma: float = BLUR_SIGMA
) -> Tensor:
    """Equation (14): the stages' maps, bilinear to the image size, summed and blurred.

    Args:
        features: One tensor (N, C_k, H_k, W_k) a stage.
        reconstructions: The same shapes.
        size: Height and width of the image in pixels.
        sigma: Standard deviation of the blur in pixels.

    Returns:
        (N, 1, H, W), each value in [0, 2 * number of stages]; the larger, the more anomalous.

    Example:
        >>> f = torch.ones(1, 3, 4, 4)
        >>> anomaly_map([f, f], [f, -f], size=(32, 32)).mean()
        tensor(2.)
    """
    maps = [
        functional.interpolate(stage_map(f, g), size=size, mode="bilinear", align_corners=True)
        for f, g in zip(features, reconstructions, strict=True)
    ]
    return gaussian_blur(torch.stack(maps).sum(dim=0), sigma)


def check_top_k(top_k: int | None, pixels: int) -> None:
    """Refuse to take more pixels than a map has.

    Raises:
        ValueError: If ``top_k`` exceeds ``pixels``.
    """
    if top_k is not None and top_k > pixels:
        msg = (
            f"Expected score_top_k of at most {pixels}, the pixels of the anomaly map, got {top_k}. "
            "Do lower score_top_k, or set it to None for the mean of the whole map."
        )
        raise ValueError(msg)


def image_score(scores: Tensor, top_k: int | None = 100) -> Tensor:
    """Mean of the ``top_k`` largest values of each map.

    Args:
        scores: Anomaly maps (N, 1, H, W).
        top_k: Number of pixels; None takes the mean of the whole map, right where anomalies are diffuse.

    Returns:
        Scores (N,); an image's score does not depend on the others in the batch.

    Raises:
        ValueError: If a map has fewer than ``top_k`` pixels.

    Example:
        >>> image_score(torch.arange(16.0).view(1, 1, 4, 4), top_k=2)
        tensor([14.5000])
    """
    flat = scores.flatten(1)
    if top_k is None:
        return flat.mean(dim=1)
    if not torch.compiler.is_compiling():
        check_top_k(top_k, flat.shape[1])
    return flat.topk(top_k, dim=1).values.mean(dim=1)
