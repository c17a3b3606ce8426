"""Keeps images of a data set in memory once they are read, for epochs in which nothing about them is random."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import Dataset

SUBSETS = ("train_data", "known_data", "val_data")
"""What is gone through in every epoch; a test comes once."""


class Room:
    """Bytes that several data sets share.

    Args:
        size: Bytes in all.

    Example:
        >>> room = Room(10)
        >>> room.take(8), room.take(8), room.take(1), room.taken
        (True, False, True, 9)
    """

    def __init__(self, size: float) -> None:
        self.left = size
        self.taken = 0

    def take(self, size: int) -> bool:
        """Whether so many bytes fit; if so, they are taken."""
        fits = size <= self.left
        if fits:
            self.left -= size
            self.taken += size
        return fits


class ReadOnce(Dataset[Any]):
    """A data set whose items are kept as far as there is room; in everything else the one that it wraps.

    Args:
        data: Data set of anomalib that gives the same item of the same index every time.
        room: Bytes to keep at most.

    Example:
        >>> from anomalib.data import ImageItem
        >>> import torch
        >>> data = ReadOnce([ImageItem(image=torch.zeros(3, 8, 8))], Room(1000))
        >>> data[0] is data[0], len(data)
        (True, 1)
    """

    def __init__(self, data: Any, room: Room) -> None:  # noqa: ANN401 - a sequence in fact
        self.data, self.room = data, room
        self._items: dict[int, Any] = {}

    def __len__(self) -> int:
        """Number of items."""
        return len(self.data)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - the data set's kind of item
        """An item, the same object every time if there was room: batches are copies."""
        item = self._items.get(index)
        if item is None:
            item = self.data[index]
            if self.room.take(_bytes(item)):
                self._items[index] = item
        return item

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Whatever else the data set has: samples, augmentations, how items become a batch."""
        if name == "data" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data, name)


def _bytes(item: object) -> int:
    return sum(value.nbytes for value in vars(item).values() if isinstance(value, Tensor))


def keep_what_is_read(datamodule: pl.LightningDataModule, size: float) -> None:
    """Let the training and validation data of a datamodule be read once, until ``read_anew``.

    Args:
        datamodule: Set up already, and read by the training's own process.
        size: Bytes to keep at most.
    """
    read_anew(datamodule)
    room = Room(size)
    for name in SUBSETS:
        data = getattr(datamodule, name, None)
        if data is not None:
            setattr(datamodule, name, ReadOnce(data, room))


def read_anew(datamodule: pl.LightningDataModule | None) -> None:
    """Undo ``keep_what_is_read``; nothing where it was not called."""
    for name in SUBSETS:
        data = getattr(datamodule, name, None)
        if isinstance(data, ReadOnce):
            setattr(datamodule, name, data.data)
