"""CIFAR10OneClass: one class of CIFAR-10 as normal, the nine others as anomalies."""

from pathlib import Path

import torchvision
from torchvision.transforms.v2 import Transform

from anomalib_ckaad.data.paper.cifar10_files import CLASSES, LAYOUT, Cifar10Class, png_folder, write_png
from anomalib_ckaad.data.paper.labeled_data import LabeledData
from anomalib_ckaad.data.paper.labeled_images import LabeledImage, images_of_classes
from anomalib_ckaad.errors import ConfigurationError


class CIFAR10OneClass(LabeledData):
    """CIFAR-10 with one class as normal and the nine others as types of anomalies (Krizhevsky 2009).

    The files are torchvision's: ``cifar-10-python.tar.gz`` of https://www.cs.toronto.edu/~kriz/cifar.html unpacks to
    ``cifar-10-batches-py``. Its 60,000 images are written once to ``cifar-10-png`` beside it, 250 MB, since anomalib
    reads images by path. Splits are those of ``LabeledData``.

    Args:
        root: Folder that holds ``cifar-10-batches-py``, or ``CIFAR10`` with it. None means anomalib's own folder of
            data sets. Default ``./datasets``.
        normal_class: Name of the normal class.
        download: Whether to download the files to ``root`` where they are missing. Default False.
        train_batch_size: Default 64.
        eval_batch_size: Default 64.
        num_workers: Default 8.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations where none is given for the subset.
        val_split_ratio: Share of the training images that are held out for validation. Default 0.05.
        seed: Of the draw of validation images. Default 0.

    Raises:
        ConfigurationError: If ``normal_class`` is not one of the ten.
        MissingDataError: From ``prepare_data`` and ``setup``, if the files are missing.
        DataError: From ``prepare_data`` and ``setup``, if the files are damaged.
    """

    layout = LAYOUT

    def __init__(
        self,
        root: Path | str | None = "./datasets",
        normal_class: Cifar10Class = "airplane",
        download: bool = False,  # noqa: FBT001, FBT002 - keyword argument of a config file
        train_batch_size: int = 64,
        eval_batch_size: int = 64,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_ratio: float = 0.05,
        seed: int = 0,
    ) -> None:
        if normal_class not in CLASSES:
            msg = f"`normal_class` must be one of {', '.join(CLASSES)}, not {normal_class!r}."
            raise ConfigurationError(msg)
        super().__init__(
            root=root,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.category = normal_class
        self.download = download

    def prepare_data(self) -> None:
        """Write the images to files, unless they exist; with ``download``, download them first.

        Raises:
            MissingDataError: If the files are missing.
            DataError: If they are damaged.
        """
        if self.download and png_folder(self.root) is None:
            torchvision.datasets.CIFAR10(root=self.root, download=True)  # does nothing if they exist
        write_png(self.root)

    def images(self) -> list[LabeledImage]:
        """List all images of the data set."""
        return images_of_classes(write_png(self.root), CLASSES, normal=self.category)
