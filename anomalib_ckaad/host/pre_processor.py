"""anomalib's pre-processor: as a backbone wants it, as it is exported, and around makers of anomalies."""

import logging
from collections.abc import Callable, Iterator

import torch
from anomalib.pre_processing import PreProcessor
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_ckaad.host.exact_resize import exact_resizes

logger = logging.getLogger(__name__)

MeanAndStd = tuple[tuple[float, ...], tuple[float, ...]]
NOTICEABLE = 0.01
"""Difference in mean or deviation worth a warning; a step of an 8-bit image is 0.004."""


def make_pre_processor(image_size: tuple[int, int], normalization: MeanAndStd) -> PreProcessor:
    """Resize to ``image_size`` (height, width), then normalize with a backbone's own mean and standard deviation."""
    mean, std = normalization
    return PreProcessor(
        transform=Compose([Resize(image_size, antialias=True), Normalize(mean=list(mean), std=list(std))])
    )


def resize_exactly(pre_processor: nn.Module | None) -> None:
    """Make exported graphs resize as training does: anomalib's pre-processor drops antialiasing for export."""
    if isinstance(pre_processor, PreProcessor):
        pre_processor.export_transform = exact_resizes(pre_processor.transform, pre_processor.export_transform)


def prepare(pre_processor: nn.Module | None, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) as training gets them: through the pre-processor's transform where there is one."""
    transform = getattr(pre_processor, "transform", None)
    return images if transform is None else transform(images)


def _walk(transform: nn.Module | None) -> Iterator[nn.Module]:
    if isinstance(transform, Compose):
        for child in transform.transforms:
            yield from _walk(child)
    elif transform is not None:
        yield transform


def find_normalize(pre_processor: nn.Module | None) -> Normalize | None:
    """The last normalization among a pre-processor's transforms, or None."""
    found = [t for t in _walk(getattr(pre_processor, "transform", None)) if isinstance(t, Normalize)]
    return found[-1] if found else None


def warn_of_other_normalization(pre_processor: nn.Module | None, backbone: str, expected: MeanAndStd) -> None:
    """Log a warning where images reach the backbone normalized in another way than it was pre-trained with."""
    normalize = find_normalize(pre_processor)
    got = ([0.0] * 3, [1.0] * 3) if normalize is None else (list(normalize.mean), list(normalize.std))
    if (torch.tensor(got) - torch.tensor(expected)).abs().max() > NOTICEABLE:
        logger.warning(
            "Images are normalized with mean %s and std %s, but %s was pre-trained with mean %s and std %s. Leave "
            "`pre_processor` out, or put a Normalize with these numbers into it.",
            *got,
            backbone,
            *expected,
        )


def in_unit_range(maker: Callable[[Tensor], Tensor], images: Tensor, normalize: Normalize | None) -> Tensor:
    """Let a maker of anomalies work on images in [0, 1]: undo the normalization before it, redo it after.

    Args:
        maker: Takes and gives images (N, 3, H, W) in [0, 1].
        images: Normalized images (N, 3, H, W).
        normalize: How they were normalized; None if they were not.

    Returns:
        Normalized images (N, 3, H, W).
    """
    if normalize is None:
        return maker(images)
    mean = torch.as_tensor(normalize.mean, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    std = torch.as_tensor(normalize.std, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    return (maker((images * std + mean).clamp(0, 1)) - mean) / std
