"""Base class of the paper's data sets: images with labels and types, some training images anomalous."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

from anomalib_ckaad.data.paper.labeled_images import LabeledImage, make_samples
from anomalib_ckaad.data.paper.layout import Layout
from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.host.data_modules import SplitData


class LabeledDataset(AnomalibDataset):
    """Images with a label and a type each, and no masks.

    Args:
        samples: Rows as ``make_samples`` gives them.
        augmentations: Augmentations of the images.
    """

    def __init__(self, samples: DataFrame, augmentations: Transform | None = None) -> None:
        super().__init__(augmentations=augmentations)
        self.samples = samples


class LabeledData(SplitData):
    """Base of data sets whose training images are labeled, some of them anomalous.

    ``train_data`` holds normal images only, so that every model of anomalib can be trained on it. The training split's
    anomalous images are in ``train_anomalies``, from where ``KnownAnomalies`` takes the known ones. Validation images,
    of both kinds, are drawn from the training split and are in neither of the two: 5 % of the rarer kind plus one, and
    as many of the other. Test images are those of the test split. The column ``type`` of the samples names the type of
    each anomalous image.

    Args:
        root: Folder of the data set as it unpacks, or the folder that it lies in. None means anomalib's own folder of
            data sets. Default ``./datasets``.
        train_batch_size: Default 32.
        eval_batch_size: Default 32.
        num_workers: Default 8.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations where none is given for the subset.
        val_split_ratio: Share of the training images that are held out for validation. Default 0.05, the paper's.
        seed: Of the draw of validation images. Default 0.

    Attributes:
        train_anomalies: Samples of the anomalous training images, once set up.

    Raises:
        ConfigurationError: If ``val_split_ratio`` is not in (0, 1).
        MissingDataError: From ``setup``, if a part of the data set is missing.
    """

    layout: ClassVar[Layout]
    train_anomalies: DataFrame

    def __init__(
        self,
        root: Path | str | None = "./datasets",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_ratio: float = 0.05,
        seed: int = 0,
    ) -> None:
        if not 0 < val_split_ratio < 1:
            msg = (
                f"`val_split_ratio` must be greater than 0 and less than 1, not {val_split_ratio}. The paper uses 0.05."
            )
            raise ConfigurationError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=TestSplitMode.FROM_DIR,
            val_split_mode=ValSplitMode.FROM_TRAIN,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = resolve_dataset_root(root, type(self).__name__)
        self.split_seed = seed

    @abstractmethod
    def images(self) -> list[LabeledImage]:
        """List all images of the data set.

        Raises:
            MissingDataError: If a part of the data set is missing.
        """

    def _setup(self, _stage: str | None = None) -> None:
        samples = make_samples(self.images(), self.val_split_ratio, self.split_seed)
        is_train = samples["split"] == Split.TRAIN.value
        is_normal = samples["label_index"] == LabelName.NORMAL
        self.train_data = LabeledDataset(samples[is_train & is_normal])
        self.train_anomalies = samples[is_train & ~is_normal].reset_index(drop=True)
        self.val_data = LabeledDataset(samples[samples["split"] == Split.VAL.value])
        self.test_data = LabeledDataset(samples[samples["split"] == Split.TEST.value])
