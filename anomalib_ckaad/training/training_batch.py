"""The images of a training step: normal ones first, then known and synthetic anomalies."""

from collections.abc import Callable

import torch
from torch import Tensor


def normal_then_anomalous(
    images: Tensor, labels: Tensor, make: Callable[[Tensor], Tensor] | None = None, *, always: bool = False
) -> tuple[Tensor, Tensor]:
    """Order a batch by its labels, and make anomalies of its normal images where it has none.

    Args:
        images: (N, 3, H, W).
        labels: Whether each image is a known anomaly (N,).
        make: Makes one anomaly of each normal image; None makes none.
        always: Whether to make them beside known ones as well.

    Returns:
        Images (M, 3, H, W), the normal ones first, and whether each is anomalous (M,).

    Raises:
        ValueError: If no image is normal.

    Example:
        >>> images, is_anomalous = normal_then_anomalous(torch.zeros(2, 3, 8, 8), torch.zeros(2).bool(), torch.cos)
        >>> is_anomalous, images.amax(dim=(1, 2, 3))
        (tensor([False, False,  True,  True]), tensor([0., 0., 1., 1.]))
    """
    normal, anomalous = images[~labels], images[labels]
    if not len(normal):
        msg = (
            f"Expected normal images in every training batch, got {len(anomalous)} anomalous ones only. "
            "Do put normal images into the training set, or raise train_batch_size."
        )
        raise ValueError(msg)
    if make is not None and (always or not len(anomalous)):
        anomalous = torch.cat([anomalous, make(normal)])
    is_anomalous = torch.arange(len(normal) + len(anomalous), device=images.device) >= len(normal)
    return torch.cat([normal, anomalous]), is_anomalous
