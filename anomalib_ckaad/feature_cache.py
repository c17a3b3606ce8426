"""Remembers what the frozen backbone says of an image: every epoch the same, where nothing about it is random."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, Identity, Normalize, Pad, Resize, ToDtype, ToImage

FIXED_TRANSFORMS = (CenterCrop, Compose, Grayscale, Identity, nn.Identity, Normalize, Pad, Resize, ToDtype, ToImage)
"""Transforms that give the same of the same image. Of any other it is not known."""


def is_fixed(transform: nn.Module | None) -> bool:
    """Whether a transform is known to give the same of the same image.

    Example:
        >>> from torchvision.transforms.v2 import RandomHorizontalFlip
        >>> is_fixed(Compose([Resize(8), Normalize([0.5], [0.5])])), is_fixed(Compose([RandomHorizontalFlip()]))
        (True, False)
    """
    if isinstance(transform, Compose):
        return all(map(is_fixed, transform.transforms))
    return transform is None or isinstance(transform, FIXED_TRANSFORMS)


class FeatureCache:
    """Features of images by name, in memory, in the precision that they were computed in.

    Args:
        limit: Bytes to hold at most. What comes when it is full is computed every time.

    Example:
        >>> cache = FeatureCache(limit=2**20)
        >>> images = torch.ones(2, 3, 8, 8)
        >>> for names in (["a", "b"], ["b", None]):
        ...     features = cache.get(images, names, lambda images: [images.mean(dim=1)])
        ...     print(features[0].shape, cache.computed)
        torch.Size([2, 8, 8]) 2
        torch.Size([2, 8, 8]) 3
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.computed = 0
        """Number of images whose features were computed."""
        self._features: dict[str, list[Tensor]] = {}
        self._bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._features.clear()
        self._bytes = 0

    def get(
        self, images: Tensor, names: Sequence[str | None], compute: Callable[[Tensor], list[Tensor]]
    ) -> list[Tensor]:
        """Features of images, computed together for those that are not known yet.

        Args:
            images: (N, 3, H, W).
            names: What each image is known by (N); None for one that will not come again.
            compute: The frozen backbone: images to one tensor (N, C_k, H_k, W_k) a stage.

        Returns:
            One tensor (N, C_k, H_k, W_k) a stage.
        """
        if self.limit <= 0 or not any(names):
            return compute(images)
        unknown = [index for index, name in enumerate(names) if name not in self._features]
        fresh: list[Tensor] = []
        if unknown:
            fresh = compute(images if len(unknown) == len(names) else images[unknown])
            self.computed += len(unknown)
            self._keep([names[index] for index in unknown], fresh)
            if len(unknown) == len(names):
                return fresh
        position = dict(zip(unknown, range(len(unknown)), strict=True))
        rows = [
            [stage[position[index]] for stage in fresh] if index in position else self._features[str(name)]
            for index, name in enumerate(names)
        ]
        return [torch.stack(stage) for stage in zip(*rows, strict=True)]

    def _keep(self, names: Sequence[str | None], features: Sequence[Tensor]) -> None:
        """Remember features of those images that have a name, as far as there is room."""
        each = sum(stage[0].nbytes for stage in features)
        for position, name in enumerate(names):
            if name is not None and name not in self._features and self._bytes + each <= self.limit:
                # A copy: a view would hold the whole batch.
                self._features[name] = [stage[position].detach().clone() for stage in features]
                self._bytes += each
