"""Elastic deformation of a batch of images: the industrial anomalies of CKAAD.

The displacement is distributed as in torchvision's ``ElasticTransform``: uniform noise in [-1, 1] for each axis,
smoothed by a Gaussian, times ``alpha / 2`` pixels. Three things differ on purpose: each image of a batch gets a field
of its own (in torchvision they share one), displacement and smoothing scale with the size of the image (in torchvision
they are constant in pixels), and pixels beyond the border repeat the edge (in torchvision they are black, which a
detector would learn instead of the anomaly).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.synthesis.maker import check_images


def gaussian_kernel(sigma: float) -> Tensor:
    """Return the Gaussian weights torchvision's ``ElasticTransform`` uses for ``sigma`` (pixels): ``8 sigma + 1``, odd.

    >>> gaussian_kernel(5.0).shape
    torch.Size([41])
    """
    size = int(8 * sigma + 1)
    size += 1 - size % 2
    position = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.softmax(-0.5 * (position / sigma) ** 2, dim=0)


def blur_matrix(length: int, sigma: float) -> Tensor:
    """Return the (length, length) float64 matrix that smooths a signal of ``length`` samples.

    Its rows sum to one. The borders reflect without repeating the edge sample, as in torchvision, and fold as often as
    needed where the kernel is longer than the signal.

    >>> blur_matrix(16, 2.0).sum(dim=1).allclose(torch.ones(16, dtype=torch.float64))
    True
    """
    kernel = gaussian_kernel(sigma)
    radius = len(kernel) // 2
    source = torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)  # (length, 2 radius + 1)
    period = max(2 * (length - 1), 1)
    source = source.remainder(period)
    source = torch.minimum(source, period - source) if length > 1 else torch.zeros_like(source)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, source, kernel.expand(length, -1))


def elastic_displacement(
    count: int,
    size: tuple[int, int],
    alpha: float = 200.0,
    sigma: float = 5.0,
    reference_size: int = 256,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw displacement fields in pixels.

    Args:
        count: Number of fields.
        size: Height and width of the images, in pixels.
        alpha: Strength at ``reference_size``: the smoothed noise, in [-1, 1], is multiplied by ``alpha / 2`` pixels.
        sigma: Standard deviation of the smoothing at ``reference_size``, in pixels.
        reference_size: Side of the square image that ``alpha`` and ``sigma`` are meant for. Another size scales both by
            ``sqrt(H W) / reference_size``, the same along both axes, so that the deformation looks the same.
        dtype: float32 or float64.
        device: Where the fields are made.
        generator: Source of the noise; torch's global generator of ``device`` if None. It may live on another device.

    Returns:
        Displacements of shape (count, 2, H, W), in pixels: along x in [:, 0], along y in [:, 1].
    """
    height, width = size
    scale = math.sqrt(height * width) / reference_size
    noise_device = generator.device if generator is not None else device
    noise = torch.rand(count, 2, height, width, dtype=dtype, device=noise_device, generator=generator).to(device)
    noise = noise.mul_(2).sub_(1)
    # Smoothing twice as wide leaves noise of half the amplitude: compensate by the energies of the kernels.
    energy = gaussian_kernel(sigma).square().sum() / gaussian_kernel(sigma * scale).square().sum()
    amplitude = 0.5 * alpha * scale * energy.item()
    rows = (amplitude * blur_matrix(height, sigma * scale)).to(noise)
    columns = blur_matrix(width, sigma * scale).to(noise)
    # Products with two banded matrices: on a CPU seven times as fast as two one-dimensional convolutions.
    return rows @ (noise @ columns.T)


def warp(images: Tensor, displacement: Tensor) -> Tensor:
    """Sample each pixel of ``images`` (N, C, H, W) ``displacement`` (N, 2, H, W) pixels away, bilinearly.

    Positions beyond the border take the value of the nearest edge pixel. Every channel stays within its own minimum and
    maximum, so images in [0, 1] stay there to the last bit and a constant one does not change.
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=images.dtype, device=images.device)
    y = torch.arange(height, dtype=images.dtype, device=images.device)[:, None]
    grid = torch.stack(
        ((x + displacement[:, 0] + 0.5) * (2 / width) - 1, (y + displacement[:, 1] + 0.5) * (2 / height) - 1), dim=-1
    )  # (N, H, W, 2), -1 and 1 at the outer edges of the outermost pixels
    warped = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return warped.clamp(images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True))


@dataclass(frozen=True)
class ElasticAnomalies:
    """Deforms every image elastically, each by a field of its own.

    Args:
        alpha: Strength of the displacement at ``reference_size``. Default 200, CKAAD's: a standard deviation of 3.3
            pixels along each axis.
        sigma: Smoothness of the displacement at ``reference_size``, in pixels. Default 5, CKAAD's.
        reference_size: Side of the square image that both are meant for. Default 256, CKAAD's; other sizes scale.

    Raises:
        ConfigurationError: If ``alpha`` is negative, or ``sigma`` or ``reference_size`` is not positive.

    Example:
        >>> maker = ElasticAnomalies()
        >>> images = torch.rand(4, 3, 64, 96)
        >>> anomalies = maker(images, generator=torch.Generator().manual_seed(0))
        >>> anomalies.shape, torch.equal(anomalies, images)
        (torch.Size([4, 3, 64, 96]), False)
    """

    alpha: float = 200.0
    sigma: float = 5.0
    reference_size: int = 256

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            msg = f"`alpha` must be a finite number of at least 0, not {self.alpha}. CKAAD uses 200."
            raise ConfigurationError(msg)
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            msg = f"`sigma` must be a finite number of pixels greater than 0, not {self.sigma}. CKAAD uses 5."
            raise ConfigurationError(msg)
        if self.reference_size <= 0:
            msg = f"`reference_size` must be greater than 0 pixels, not {self.reference_size}. CKAAD uses 256."
            raise ConfigurationError(msg)

    @torch.no_grad()
    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return one deformed image for each of ``images``.

        Args:
            images: Images of shape (N, 3, H, W), floating point, in [0, 1], on any device.
            generator: Source of the noise; torch's global generator if None.

        Returns:
            New images of the same shape, dtype and device, in [0, 1].

        Raises:
            UnsupportedTypeError: If ``images`` is not a floating point tensor.
            DataError: If ``images`` is not of shape (N, 3, H, W).
        """
        check_images(images)
        # Half precision cannot hold a position of a hundred pixels to a fraction of one.
        working = images if images.dtype == torch.float64 else images.float()
        with torch.autocast(images.device.type, enabled=False):
            displacement = elastic_displacement(
                len(images),
                (images.shape[2], images.shape[3]),
                self.alpha,
                self.sigma,
                self.reference_size,
                dtype=working.dtype,
                device=images.device,
                generator=generator,
            )
            return warp(working, displacement).to(images.dtype)
