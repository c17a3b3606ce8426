"""A user's folder of good and bad images: where the normal ones, the anomalous ones and the masks are.

Two layouts are understood. MVTec AD's: ``train/good``, ``test/<type>`` for each type of defect, ``test/good`` if
there are normal test images, and either no ``ground_truth`` or one mask for each image in ``ground_truth/<type>``. And
a simple one: ``good`` and ``bad``, where folders inside ``bad`` are types of defects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anomalib_ckaad.data.reading.image_paths import ANOMALIB_SUFFIXES, images_below
from anomalib_ckaad.errors import DataError, MissingDataError

MINIMUM_NORMAL: Final = 10
"""With fewer normal images, less than eight would be left to train on."""
TEST_SHARE: Final = 0.2
VALIDATION_SHARE: Final = 0.1


@dataclass(frozen=True)
class ImageFolder:
    """Where a user's images are, for anomalib's ``Folder``.

    Args:
        root: The folder the user named.
        normal: Folder of the normal images to train on.
        normal_test: Folder of the normal images to test on; None if they are to be taken from ``normal``.
        abnormal: Folders of the anomalous images.
        masks: Folders of the masks, in the order of ``abnormal``; empty if there are none.
    """

    root: Path
    normal: Path
    normal_test: Path | None
    abnormal: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def train_images(self) -> int:
        """Number of images to train on, once those for testing and validation are set aside."""
        count = self._count_before_validation()
        return count - int(count * _validation_share(count))

    def datamodule_config(self, batch_size: int = 16, seed: int = 0) -> dict[str, Any]:
        """Return the ``data`` section of a config, which validates on normal images only."""
        return {
            "class_path": "anomalib.data.Folder",
            "init_args": {
                "name": self.root.name,
                "normal_dir": str(self.normal),
                "abnormal_dir": [str(folder) for folder in self.abnormal],
                "normal_test_dir": str(self.normal_test) if self.normal_test else None,
                "mask_dir": [str(folder) for folder in self.masks] or None,
                "train_batch_size": batch_size,
                "eval_batch_size": batch_size,
                "num_workers": 0,
                "test_split_mode": "from_dir",
                "test_split_ratio": TEST_SHARE,
                "val_split_mode": "from_train",
                "val_split_ratio": _validation_share(self._count_before_validation()),
                "seed": seed,
            },
        }

    def _count_before_validation(self) -> int:
        count = len(images_below(self.normal))
        return count if self.normal_test is not None else count - int(count * TEST_SHARE)


def find_images(root: Path) -> ImageFolder:
    """Find the images and masks in a user's folder.

    Raises:
        MissingDataError: If ``root`` is not a folder.
        DataError: If it has neither layout, has too few images, or lacks masks.
    """
    root = root.resolve()
    if not root.is_dir():
        problem = f"{root} is a file" if root.exists() else f"The folder {root} does not exist"
        msg = f"{problem}. Pass the folder that contains the images."
        raise MissingDataError(msg)
    found = _mvtec(root) or _simple(root)
    if found is None:
        names = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        msg = (
            f"{root} must hold train/good and test/<type> as in MVTec AD, or good and bad, each with images "
            f"({', '.join(sorted(ANOMALIB_SUFFIXES))}). It holds {names}."
        )
        raise DataError(msg)
    count = len(images_below(found.normal))
    if count < MINIMUM_NORMAL:
        msg = f"Too few normal images in {found.normal}: {count}. At least {MINIMUM_NORMAL} are needed."
        raise DataError(msg)
    return found


def _validation_share(count: int) -> float:
    # anomalib rounds the number of validation images down: a tenth of eight would be none.
    return max(VALIDATION_SHARE, 1.5 / count)


def _mvtec(root: Path) -> ImageFolder | None:
    normal, test, truth = root / "train" / "good", root / "test", root / "ground_truth"
    if not test.is_dir() or not images_below(normal):
        return None
    abnormal = tuple(folder for folder in sorted(test.iterdir()) if folder.name != "good" and images_below(folder))
    if not abnormal:
        return None
    masks = tuple(truth / folder.name for folder in abnormal) if truth.is_dir() else ()
    for images, folder in zip(abnormal, masks, strict=False):
        _check_masks(images, folder)
    normal_test = test / "good"
    return ImageFolder(root, normal, normal_test if images_below(normal_test) else None, abnormal, masks)


def _simple(root: Path) -> ImageFolder | None:
    normal, abnormal = root / "good", root / "bad"
    if not images_below(normal) or not images_below(abnormal):
        return None
    return ImageFolder(root, normal, None, (abnormal,), ())


def _check_masks(images: Path, masks: Path) -> None:
    """Check that masks pair with images in the order of their names, which is how anomalib pairs them."""
    image_files, mask_files = images_below(images), images_below(masks)
    for image, mask in zip(image_files, mask_files, strict=False):
        if mask.stem not in {image.stem, f"{image.stem}_mask"}:
            msg = (
                f"anomalib would take {mask.name} in {masks} for the mask of {image.name} in {images}: it pairs them "
                "in the order of their names. Name each mask like its image, or with _mask added, so that both sort "
                "alike (001 instead of 1), or remove ground_truth."
            )
            raise DataError(msg)
    if len(image_files) != len(mask_files):
        msg = (
            f"Each image needs a mask, but {masks} has {len(mask_files)} masks for the {len(image_files)} images in "
            f"{images}. Add the missing ones, or remove ground_truth."
        )
        raise DataError(msg)
