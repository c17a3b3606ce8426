"""A batch as the model takes it: images, whether each is anomalous, and their paths, which stay together."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from anomalib.data import ImageBatch
from torch import Tensor

from anomalib_ckaad.errors import DataError


@dataclass(frozen=True)
class LabeledBatch:
    """Images with their labels and paths, in one order.

    Attributes:
        images: (N, 3, H, W).
        is_anomalous: Booleans (N,).
        paths: What each image is known by (N); None for one without a file, such as a synthetic anomaly.

    Example:
        >>> batch = LabeledBatch(torch.zeros(2, 3, 8, 8), torch.tensor([True, False]), ("bad.png", "good.png"))
        >>> batch.normal_first().paths
        ('good.png', 'bad.png')
        >>> batch.normal().with_synthetic(torch.cos).is_anomalous
        tensor([False,  True])
    """

    images: Tensor
    is_anomalous: Tensor
    paths: tuple[str | None, ...]

    @classmethod
    def of(cls, batch: ImageBatch, dtype: torch.dtype) -> "LabeledBatch":
        """From anomalib's batch; images without a label count as normal.

        Args:
            batch: Images, and labels and paths where it has them.
            dtype: The model's: Lightning's double precision does not reach into anomalib's batches.
        """
        images = torch.as_tensor(batch.image)
        if dtype == torch.float64:
            images = images.to(dtype)
        labels = torch.zeros(len(images)) if batch.gt_label is None else batch.gt_label
        paths = [None] * len(images) if batch.image_path is None else batch.image_path
        return cls(images, labels.to(images.device, torch.bool), tuple(paths))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def normal(self) -> "LabeledBatch":
        """The normal images alone."""
        kept = tuple(path for path, bad in zip(self.paths, self.is_anomalous.tolist(), strict=True) if not bad)
        return LabeledBatch(self.images[~self.is_anomalous], self.is_anomalous[~self.is_anomalous], kept)

    def normal_first(self) -> "LabeledBatch":
        """The normal images, then the anomalous ones, each in their order.

        Raises:
            DataError: If no image is normal.
        """
        if bool(self.is_anomalous.all()):
            msg = (
                f"A training batch has {len(self)} anomalous images and no normal one. Put normal images into the "
                "training set, or raise `train_batch_size`."
            )
            raise DataError(msg)
        order = torch.argsort(self.is_anomalous.long(), stable=True)
        return LabeledBatch(
            self.images[order], self.is_anomalous[order], tuple(self.paths[index] for index in order.tolist())
        )

    def with_synthetic(self, make: Callable[[Tensor], Tensor]) -> "LabeledBatch":
        """The same with one more image for each normal one: an anomaly that ``make`` makes of it."""
        made = make(self.images[~self.is_anomalous])
        return LabeledBatch(
            torch.cat([self.images, made]),
            torch.cat([self.is_anomalous, self.is_anomalous.new_ones(len(made))]),
            self.paths + (None,) * len(made),
        )
