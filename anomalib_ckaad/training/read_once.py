"""Keeps the images of a data set in memory once they are read, where nothing about them is random."""

import copy
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import Dataset

from anomalib_ckaad.features.transforms import is_fixed
from anomalib_ckaad.host.data_sets import reads_as_anomalib
from anomalib_ckaad.host.trainer import datamodule_of

READ_EACH_EPOCH = ("train_data", "known_data", "val_data")
"""What is gone through in every epoch; a test comes once."""


class MemoryBudget:
    """Bytes that several data sets share.

    Args:
        size: Bytes in all.

    Example:
        >>> room = MemoryBudget(10)
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

    A change of the wrapped data set's attributes through this one forgets all items. Copying it copies the wrapped data
    set.

    Args:
        data: Data set of anomalib that gives the same item of the same index every time.
        room: Bytes to keep at most.

    Example:
        >>> from anomalib.data import ImageItem
        >>> import torch
        >>> data = ReadOnce([ImageItem(image=torch.zeros(3, 8, 8))], MemoryBudget(1000))
        >>> data[0].image is data[0].image, len(data)
        (True, 1)
    """

    def __init__(self, data: Any, room: MemoryBudget) -> None:  # noqa: ANN401 - a sequence in fact
        vars(self).update(data=data, room=room, kept={})

    def __len__(self) -> int:
        """Number of items."""
        return len(self.data)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - the data set's kind of item
        """An item, of the same tensors every time if there was room: whoever makes a batch of it may change it."""
        item = self.kept.get(index)
        if item is None:
            item = self.data[index]
            if self.room.take(_bytes(item)):
                self.kept[index] = item
        return copy.copy(item)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Whatever else the data set has: samples, augmentations, how items become a batch."""
        if name in {"data", "room", "kept"} or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Change the data set, and read it anew."""
        self.forget()
        setattr(self.data, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:  # noqa: ANN401
        """A copy of the data set, without what is kept."""
        return copy.deepcopy(self.data, memo)

    def forget(self) -> None:
        """Give the memory back."""
        for item in self.kept.values():
            self.room.take(-_bytes(item))
        self.kept.clear()


def _bytes(item: object) -> int:
    return sum(value.nbytes for value in vars(item).values() if isinstance(value, Tensor))


class ReadImagesOnce(Callback):
    """Lets a training read its images once, in the memory that the features of a ``Ckaad`` leave of its cache.

    Only where the training's own process reads them (``num_workers: 0``), on a CPU, from data sets that read as
    anomalib's do and whose augmentations are known to be fixed.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put data sets that keep what is read in place of the training and validation data."""
        data, model = datamodule_of(trainer), cast("Any", pl_module)  # a Ckaad
        restore_data_sets(data)
        limit = model.frozen_features.cache.limit
        if limit <= 0 or data is None or model.device.type != "cpu" or getattr(data, "num_workers", None) != 0:
            return
        subsets = {name: getattr(data, name) for name in READ_EACH_EPOCH if getattr(data, name, None) is not None}
        if model.input_size is None or not all(map(_gives_the_same, subsets.values())):
            return
        features = sum(map(len, subsets.values())) * model.model.feature_bytes(*model.input_size)
        room = MemoryBudget(limit - features)
        for name, subset in subsets.items():
            setattr(data, name, ReadOnce(subset, room))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the memory back."""
        del pl_module
        restore_data_sets(datamodule_of(trainer))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give all memory back: data and model may be used again."""
        del exception
        cast("Any", pl_module).frozen_features.end()
        restore_data_sets(datamodule_of(trainer))


def _gives_the_same(data: object) -> bool:
    return reads_as_anomalib(data) and is_fixed(getattr(data, "augmentations", None))


def restore_data_sets(datamodule: pl.LightningDataModule | None) -> None:
    """Put the data sets themselves back, and forget what was kept; nothing where nothing was."""
    for name in READ_EACH_EPOCH:
        data = getattr(datamodule, name, None)
        if isinstance(data, ReadOnce):
            data.forget()
            data.room.left = 0  # loaders that are still there keep nothing more
            setattr(datamodule, name, data.data)
