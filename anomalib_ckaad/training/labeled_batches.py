"""What of anomalib's batches the model takes: images, whether each is anomalous, and what they are called."""

import torch
from anomalib.data import ImageBatch
from torch import Tensor


def images_and_labels(batch: ImageBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) and whether each is anomalous (N,); items without a label count as normal.

    Lightning's double precision does not reach into anomalib's batches: ``dtype`` is the model's.
    """
    images = torch.as_tensor(batch.image).to(torch.float64 if dtype == torch.float64 else None)
    labels = torch.zeros(len(images)) if batch.gt_label is None else batch.gt_label
    return images, labels.to(images.device, torch.bool)


def paths_of(batch: ImageBatch) -> list[str | None]:
    """The images' paths, which name them; None where there are none."""
    count = len(torch.as_tensor(batch.image))
    return [None] * count if batch.image_path is None else list(batch.image_path)
