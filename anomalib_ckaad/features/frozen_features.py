"""The frozen backbone's features in a training: computed once for each image that comes again as it was."""

from collections.abc import Sequence
from typing import TypedDict

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.features.folder import GIB, open_folder
from anomalib_ckaad.features.transforms import is_fixed
from anomalib_ckaad.host.trainer import datamodule_of
from anomalib_ckaad.network.backbone import FrozenBackbone

CACHED = ("train_data", "val_data")
"""Data sets whose images come again in every epoch; a test comes once."""


class CacheOptions(TypedDict, total=False):
    """Where features are kept in a training, so that the backbone sees each image once.

    Attributes:
        memory: GiB of memory for the features of training and validation images, and for as many of the images
            themselves as there is room left. 0 computes them in each epoch. Default 2.
        folder: A folder in which features stay for later runs and other processes. Default None: no folder.
        folder_limit: GiB that the folder may hold. Default 20.
    """

    memory: float
    folder: str | None
    folder_limit: float


CACHE_DEFAULTS: CacheOptions = {"memory": 2.0, "folder": None, "folder_limit": 20.0}


class FrozenFeatures:
    """Features of a training's images, from the cache where that is allowed.

    Whether it is allowed is decided once, when fitting starts, for each subset of the data: on a CPU, where neither the
    augmentations nor the pre-processor's transform are random.

    Args:
        options: Where features are kept; what is left out has its default.
    """

    def __init__(self, options: CacheOptions | None = None) -> None:
        self.options: CacheOptions = {**CACHE_DEFAULTS, **(options or {})}
        self.cache = FeatureCache(self.options["memory"] * GIB)
        self._cached_subsets: frozenset[str] = frozenset()

    def begin(self, trainer: pl.Trainer, backbone: FrozenBackbone, pre_processor: nn.Module | None) -> None:
        """Decide for which images features may be kept, and open the folder; the backbone has its weights."""
        self.end()
        if trainer.strategy.root_device.type != "cpu":
            return
        transform = getattr(pre_processor, "transform", None)
        if self.options["folder"] is not None:
            limit = self.options["folder_limit"] * GIB
            self.cache.folder = open_folder(self.options["folder"], limit, backbone, transform)
        found = {name: getattr(datamodule_of(trainer), name, None) for name in CACHED}
        unknown = object()  # of data that do not say what they do to images
        augmentations = {
            name: getattr(data, "augmentations", unknown) for name, data in found.items() if data is not None
        }
        if is_fixed(transform):
            self._cached_subsets = frozenset(name for name, own in augmentations.items() if is_fixed(own))

    def end(self) -> None:
        """Give the memory back; features are computed each time until another training begins."""
        self.cache.clear()
        self._cached_subsets = frozenset()

    def __call__(
        self, backbone: nn.Module, images: Tensor, paths: Sequence[str | None], subset: str | None = None
    ) -> list[Tensor]:
        """Features of normalized images (N, 3, H, W), one tensor (N, C_k, H_k, W_k) a stage.

        Args:
            backbone: The frozen backbone.
            images: (N, 3, H, W).
            paths: What each image is known by (N); None for one that will not come again.
            subset: The data set that they are from, ``train_data`` or ``val_data``.
        """
        if subset not in self._cached_subsets:
            paths = [None] * len(images)
        return self.cache.get(images, paths, backbone, f"{precision_of(images)} {tuple(images.shape[1:])}")


def precision_of(images: Tensor) -> str:
    """The precision that a module would compute in here: features of other precisions are others.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     precision_of(torch.zeros(1))
        'torch.float32 torch.bfloat16'
    """
    device = images.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    return f"{images.dtype} {autocast}"
