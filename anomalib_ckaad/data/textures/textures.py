"""Textures: a data set for anomaly detection that needs no download."""

import logging
from pathlib import Path

from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from torchvision.transforms.v2 import Transform

from anomalib_ckaad.data.reading.anomaly_types import read_anomaly_folder
from anomalib_ckaad.data.textures.files import KNOWN_SUFFIX, TextureParameters, write_textures
from anomalib_ckaad.data.textures.images import Category
from anomalib_ckaad.errors import ConfigurationError

logger = logging.getLogger(__name__)


class Textures(AnomalibDataModule):
    """Photographs of brick, gravel and grass with painted defects, in MVTec AD's folder layout.

    The normal images are crops of the real photographs that scikit-image installs with itself, slightly turned,
    mirrored and with the light changed. Training, validation and test images come from three parts of the photograph
    that do not overlap, so no test image shows what a training image shows. The defects (scratch, stain, hole, patch of
    another material, opened seam) are painted, with masks: real surfaces, artificial damage. Use it for demonstrations
    and tests, not as a benchmark.

    Validation uses normal images only, from ``validation/good``, as in MVTec AD 2. With ``from_train`` it uses training
    images instead; as these overlap with each other, the threshold will be too low.

    Known anomalies drawn from the test images show the test part of the photograph, which a model would learn along
    with the defects. ``known_per_defect`` makes known anomalies from the training part instead, in the folder
    ``known``, and ``KnownAnomalies`` takes them from there.

    The images are made once, from ``texture_seed``, in ``root/category``. A folder that is incomplete, or was made with
    other parameters, is refused and never overwritten.

    Args:
        root: Folder of the set. None means anomalib's folder of data sets. Default ``./datasets/Textures``.
        category: ``brick``, ``gravel`` or ``grass``. Default ``brick``, the one with the most regular pattern.
        image_size: Side of the images in pixels, or the same number twice. Default 256.
        train_images: Number of normal training images. Default 80: more crops of one photograph add little.
        validation_images: Number of normal validation images. Default 16.
        test_good_images: Number of normal test images. Default 20.
        images_per_defect: Number of test images of each of the five kinds of defects. Default 8.
        known_per_defect: Number of known anomalies of each kind of defect. Default 0.
        texture_seed: Seed the images are made from. Default 0.
        train_batch_size: Default 16, CKAAD's for industrial images.
        eval_batch_size: Default 16.
        num_workers: Default 0: reading these images is cheaper than starting workers every epoch.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations where none is given for the subset.
        test_split_mode: Default ``from_dir``: the test images as they were made.
        test_split_ratio: Unused with ``from_dir``.
        val_split_mode: Default ``from_dir``: the validation images as they were made.
        val_split_ratio: Unused with ``from_dir``.
        seed: Seed of splits other than ``from_dir``. Default 0.

    Raises:
        ConfigurationError: If an argument is out of its range.
        FileError: From ``prepare_data`` and ``setup``, if ``root/category`` holds something else.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> data = Textures(root=folder, image_size=64, train_images=9, validation_images=1, images_per_defect=1)
        >>> data.prepare_data()
        >>> data.setup()
        >>> len(data.train_data), len(data.val_data), len(data.test_data)
        (9, 1, 25)
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/Textures",
        category: Category = "brick",
        image_size: int | tuple[int, int] = 256,
        train_images: int = 80,
        validation_images: int = 16,
        test_good_images: int = 20,
        images_per_defect: int = 8,
        known_per_defect: int = 0,
        texture_seed: int = 0,
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_DIR,
        val_split_ratio: float = 0.1,
        seed: int | None = 0,
    ) -> None:
        if not 0 < val_split_ratio < 1:
            msg = (
                f"`val_split_ratio` must be greater than 0 and less than 1, not {val_split_ratio}. "
                "For no validation images, set `val_split_mode` to 'none'."
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
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = resolve_dataset_root(root, "Textures")
        self.category = category
        self.parameters = TextureParameters(
            category=category,
            image_size=_side(image_size),
            train_images=train_images,
            validation_images=validation_images,
            test_good_images=test_good_images,
            images_per_defect=images_per_defect,
            seed=texture_seed,
            known_per_defect=known_per_defect,
        )

    def prepare_data(self) -> None:
        """Make the images, unless they exist.

        Raises:
            FileError: If ``root/category`` holds something else than these images.
        """
        if write_textures(self.root, self.parameters):
            logger.info("Made the textures in %s.", self.root / self.category)

    def _setup(self, _stage: str | None = None) -> None:
        # So that ``setup`` alone is enough, and images of other parameters are always refused.
        self.prepare_data()
        self.train_data = MVTecADDataset(split=Split.TRAIN, root=self.root, category=self.category)
        self.test_data = MVTecADDataset(split=Split.TEST, root=self.root, category=self.category)
        if self.parameters.known_per_defect:
            self.train_anomalies = read_anomaly_folder(self.root / self.category / "known", {KNOWN_SUFFIX})
        if self.val_split_mode == ValSplitMode.FROM_DIR:
            # Split.VAL is "val", but the folder's name is "validation".
            self.val_data = MVTecADDataset(split="validation", root=self.root, category=self.category)


def _side(image_size: int | tuple[int, int]) -> int:
    """Return the side of square images; anomalib's ``get_datamodule`` turns a single number into a pair."""
    if isinstance(image_size, int):
        return image_size
    height, width = image_size
    if height != width:
        msg = f"`image_size` must be one number, or the same number twice, not {image_size}: the images are square."
        raise ConfigurationError(msg)
    return height
