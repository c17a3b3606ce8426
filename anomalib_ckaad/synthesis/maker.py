"""What every maker of anomalies is: a callable from a batch of images to a batch of images."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class AnomalyMaker(Protocol):
    """Turns normal images into synthetic anomalous ones.

    A maker takes images of shape (N, 3, H, W), floating point, in [0, 1], on any device, and returns new images of the
    same shape, dtype and device in [0, 1], one anomaly for each. It never changes its input. Randomness comes from
    torch's global generator, or from ``generator`` where one is given.
    """

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Make one anomalous image from each of ``images``, (N, 3, H, W) in [0, 1]."""
        ...


def check_images(images: object) -> None:
    """Check that ``images`` has the type, shape and dtype that makers take.

    Values are not looked at: that would cost a synchronization of the device on every training step.

    Raises:
        TypeError: If ``images`` is not a tensor or not of a floating point dtype.
        ValueError: If ``images`` is not of shape (N, 3, H, W) or an image has no pixels.
    """
    if not isinstance(images, Tensor):
        msg = f"Expected images as a torch.Tensor, got {type(images).__name__}. Do convert them first."
        raise TypeError(msg)
    if images.ndim != 4 or images.shape[1] != 3:  # noqa: PLR2004 - (N, 3, H, W)
        msg = (
            f"Expected images of shape (N, 3, H, W), got {tuple(images.shape)}. "
            "Do pass a batch of RGB images; images[None] makes a batch of one."
        )
        raise ValueError(msg)
    if not images.is_floating_point():
        msg = f"Expected floating point images in [0, 1], got {images.dtype}. Do pass images.float() / 255 for bytes."
        raise TypeError(msg)
    if 0 in images.shape[2:]:
        msg = f"Expected images with at least one pixel, got shape {tuple(images.shape)}. Do check the reading of them."
        raise ValueError(msg)
