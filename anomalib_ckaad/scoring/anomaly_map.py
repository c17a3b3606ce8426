"""Equation (14): from features and their reconstructions to an anomaly map, and from the map to an image score."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from anomalib_ckaad.errors import ConfigurationError

BLUR_SIGMA = 4.0
"""Standard deviation of the blur in pixels of the map, as in the reference code."""
POWER = 16
"""Exponent of the power mean of a map."""


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


def _blur_columns(image: Tensor, sigma: float) -> Tensor:
    """Blur each column of (H, W) as ``scipy.ndimage.gaussian_filter``: the border mirrored, the edge pixel repeated."""
    kernel = gaussian_kernel(sigma).to(image)
    image = image.index_select(0, _mirror(image.shape[0], len(kernel) // 2, image.device))
    return functional.conv2d(image[None, None], kernel.view(1, 1, -1, 1))[0, 0]


def upsampling_matrix(positions: int, size: int, sigma: float, like: Tensor) -> Tensor:
    """Weights of linear upsampling along one axis, corners aligned, followed by a Gaussian blur.

    Both are linear, so they are one matrix, and a map takes two small products instead of an interpolation and two
    convolutions at full size. Built of operations that stay exact when exported with dynamic height and width.

    Args:
        positions: Number of positions of the feature map; symbolic while such a graph is exported.
        size: Number of pixels after; symbolic as well.
        sigma: Standard deviation of the blur in pixels, cut at 4 sigma, borders as ``scipy.ndimage.gaussian_filter``;
            0 for none.
        like: Gives dtype and device.

    Returns:
        (size, positions), each row with a sum of 1.

    Example:
        >>> upsampling_matrix(2, 3, sigma=0, like=torch.zeros(1))
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    # Whole numbers of units of 1 / (size - 1) positions: fractions would depend on how each runtime rounds a division.
    unit: Any = torch.sym_max(size - 1, 1)  # an int, or a symbol
    pixel = torch.arange(size, device=like.device) * (positions - 1)
    position = torch.arange(positions, device=like.device) * unit
    weights = torch.clamp(1 - (pixel[:, None] - position).abs().to(like) / unit, min=0)
    return _blur_columns(weights, sigma) if sigma else weights


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
    return join_stages([stage_map(f, g) for f, g in zip(features, reconstructions, strict=True)], size, sigma)


def join_stages(stage_maps: Sequence[Tensor], size: tuple[int, int], sigma: float = BLUR_SIGMA) -> Tensor:
    """Maps of the stages, one tensor (N, 1, H_k, W_k) each, at the image's size, summed and blurred: (N, 1, H, W)."""
    maps = []
    for small in stage_maps:
        rows, columns = (
            _kept_or_made(positions, pixels, sigma, small)
            for positions, pixels in zip(small.shape[-2:], size, strict=True)
        )
        maps.append(rows @ small @ columns.mT)
    return torch.stack(maps).sum(dim=0)


def _kept_or_made(positions: Any, size: Any, sigma: float, like: Tensor) -> Tensor:  # noqa: ANN401 - numbers or symbols
    """The matrix, kept where a size may come again: making it takes longer than multiplying by it."""
    if torch.compiler.is_compiling() or not (isinstance(positions, int) and isinstance(size, int)):
        return upsampling_matrix(positions, size, sigma, like)
    return _kept_matrix(positions, size, sigma, like.dtype, like.device)


@lru_cache(maxsize=32)
def _kept_matrix(positions: int, size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # else no later caller could compute gradients
        return upsampling_matrix(positions, size, sigma, torch.empty(0, dtype=dtype, device=device))


TopKName = Literal["all", "power_mean"]
TopK = int | TopKName
"""How an image score is made of a map: see ``image_score``."""


def check_top_k(top_k: TopK, pixels: int) -> None:
    """Refuse to take more pixels than a map has.

    Raises:
        ConfigurationError: If ``top_k`` exceeds ``pixels``.
    """
    if isinstance(top_k, int) and top_k > pixels:
        msg = (
            f"`score_top_k` is {top_k}, but the anomaly map has only {pixels} pixels. Lower it, or set it to 'all' for "
            "the mean of the whole map."
        )
        raise ConfigurationError(msg)


def image_score(scores: Tensor, top_k: TopK = 100) -> Tensor:
    """Mean of the ``top_k`` largest values of each map, or its power mean.

    A few pixels miss an anomaly that is spread over the image and weak everywhere; the mean of all pixels misses a
    small one. The power mean with exponent 16 lies between: what stands out by half counts 650 times.

    Args:
        scores: Anomaly maps (N, 1, H, W), not negative.
        top_k: Number of pixels; ``"all"`` for the mean of the whole map, right where anomalies are diffuse;
            ``"power_mean"`` for the power mean of the whole map.

    Returns:
        Scores (N,); an image's score does not depend on the others in the batch.

    Raises:
        ConfigurationError: If a map has fewer than ``top_k`` pixels.

    Example:
        >>> maps = torch.arange(16.0).view(1, 1, 4, 4)
        >>> image_score(maps, top_k=2), image_score(maps, "all"), image_score(maps, "power_mean")
        (tensor([14.5000]), tensor([7.5000]), tensor([12.9208]))
    """
    flat = scores.flatten(1)
    if top_k == "all":
        return flat.mean(dim=1)
    if top_k == "power_mean":
        flat = flat.clamp(min=0)  # 1 - cosine can round to less
        largest = flat.amax(dim=1).clamp(min=torch.finfo(flat.dtype).tiny)  # powers of its shares stay in range
        return largest * (flat / largest[:, None]).pow(POWER).mean(dim=1).pow(1 / POWER)
    if not torch.compiler.is_compiling():
        check_top_k(top_k, flat.shape[1])
    return flat.topk(top_k, dim=1).values.mean(dim=1)
