"""The interface of a maker of anomalies: a callable from a batch of images to a batch of images."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from anomalib_ckaad.errors import DataError, UnsupportedTypeError


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

    Values are not checked: that would cost a synchronization of the device in every training step.

    Raises:
        UnsupportedTypeError: If ``images`` is not a tensor or not of a floating point dtype.
        DataError: If ``images`` is not of shape (N, 3, H, W) or an image has no pixels.
    """
    if not isinstance(images, Tensor):
        msg = f"`images` must be a torch.Tensor, not {type(images).__name__}."
        raise UnsupportedTypeError(msg)
    if images.ndim != 4 or images.shape[1] != 3:  # noqa: PLR2004 - (N, 3, H, W)
        msg = (
            f"`images` must have the shape (N, 3, H, W), not {tuple(images.shape)}. "
            "Pass a batch of RGB images; images[None] makes a batch of one."
        )
        raise DataError(msg)
    if not images.is_floating_point():
        msg = f"`images` must be floating point in [0, 1], not {images.dtype}. For bytes, pass images.float() / 255."
        raise UnsupportedTypeError(msg)
    if 0 in images.shape[2:]:
        msg = f"`images` have no pixels: their shape is {tuple(images.shape)}."
        raise DataError(msg)
