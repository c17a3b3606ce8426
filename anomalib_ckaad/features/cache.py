"""Remembers the frozen backbone's features of an image, the same in every epoch unless something is random."""

import hashlib
import logging
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anomalib_ckaad.features.folder import FeatureFolder, bytes_of, hash_image

logger = logging.getLogger(__name__)


class FeatureCache:
    """Features of images by name, in memory and if wanted in a folder, in the precision that they were computed in.

    An image that comes under a known name and is another one, as random transforms make it, is computed anew.

    Args:
        limit: Bytes of memory to hold at most. What comes when it is full is looked up in the folder, or computed.

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
        self.folder: FeatureFolder | None = None
        """Where features stay from one run to the next; None keeps them in memory only."""
        self.computed = 0
        """Number of images whose features were computed."""
        self._features: dict[tuple[str, str], tuple[int, list[Tensor]]] = {}
        self._bytes = 0
        self._said: set[str] = set()

    @property
    def bytes_held(self) -> int:
        """Bytes of features in memory."""
        return self._bytes

    def clear(self) -> None:
        """Forget everything but what is in the folder, and the folder."""
        self._features.clear()
        self._bytes = 0
        self.folder = None

    def get(
        self,
        images: Tensor,
        names: Sequence[str | None],
        compute: Callable[[Tensor], list[Tensor]],
        precision: str = "",
    ) -> list[Tensor]:
        """Features of images, computed together for those that are not known yet.

        Args:
            images: (N, 3, H, W).
            names: What each image is known by (N); None for one that will not come again.
            compute: The frozen backbone: images to one tensor (N, C_k, H_k, W_k) a stage.
            precision: What else features depend on: the same image may be asked for in two precisions.

        Returns:
            One tensor (N, C_k, H_k, W_k) a stage.
        """
        if (self.limit <= 0 and self.folder is None) or not any(names):
            return compute(images)
        names = [self._same(name, image, precision) for name, image in zip(names, images, strict=True)]
        keys = [
            "" if self.folder is None or name is None or (precision, name) in self._features else _key(image, precision)
            for image, name in zip(images, names, strict=True)
        ]
        rows = [
            self._look_up(name, key, precision, image) for name, key, image in zip(names, keys, images, strict=True)
        ]
        unknown = [index for index, row in enumerate(rows) if row is None]
        if unknown:
            fresh = compute(images if len(unknown) == len(names) else images[unknown])
            self.computed += len(unknown)
            for position, index in enumerate(unknown):
                # A copy, channels last: a view would hold the whole batch.
                row = [_copy(stage[position]) for stage in fresh]
                rows[index] = row
                self._keep(names[index], keys[index], precision, row, images[index])
            if len(unknown) == len(names):
                return fresh
        return [torch.stack(stage).movedim(-1, 1) for stage in zip(*filter(None, rows), strict=True)]

    def _same(self, name: str | None, image: Tensor, precision: str) -> str | None:
        """The name of an image, unless another image is known by it."""
        known = None if name is None else self._features.get((precision, name))
        if known is None or known[0] == _mark(image):
            return name
        self._say("other", "Some images change from epoch to epoch. Their features are computed each time.")
        return None

    def _look_up(self, name: str | None, key: str, precision: str, image: Tensor) -> list[Tensor] | None:
        if name is None:
            return None
        known = self._features.get((precision, name))
        if known is not None:
            return known[1]
        row = None if self.folder is None else self.folder.read(key)
        if row is not None:
            self._remember(name, precision, row, image)
        return row

    def _keep(self, name: str | None, key: str, precision: str, row: list[Tensor], image: Tensor) -> None:
        if name is None:
            return
        self._remember(name, precision, row, image)
        if self.folder is not None:
            self.folder.write(key, row)

    def _remember(self, name: str, precision: str, row: list[Tensor], image: Tensor) -> None:
        """Hold features in memory as far as there is room."""
        each = sum(stage.nbytes for stage in row)
        if (precision, name) in self._features:
            return
        if self._bytes + each <= self.limit:
            self._features[precision, name] = (_mark(image), row)
            self._bytes += each
        elif self.limit > 0:
            self._say(
                "full",
                "The cache of features is full. The features of further images are computed each time; raise `memory` "
                "of `cache` to keep them.",
            )

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.info(sentence)


def _key(image: Tensor, precision: str) -> str:
    return hashlib.sha256(f"{hash_image(image)} {precision}".encode()).hexdigest()


def _mark(image: Tensor) -> int:
    """A checksum of the image (CRC-32)."""
    return zlib.crc32(bytes_of(image))


def _copy(stage: Tensor) -> Tensor:
    """(C, H, W) -> (H, W, C)."""
    return stage.detach().movedim(0, -1).clone(memory_format=torch.contiguous_format)
