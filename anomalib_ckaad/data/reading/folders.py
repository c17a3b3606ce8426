"""A user's folder of images: what is normal, what is not, and which masks there are.

Two arrangements are understood. MVTec AD's: ``train/good``, ``test/<type>`` for each type of defect, ``test/good`` if
there are normal test images, and either no ``ground_truth`` or one mask an image in ``ground_truth/<type>``. And the
simple one: ``good`` and ``bad``, where folders inside ``bad`` are types of defects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchvision.datasets.folder import IMG_EXTENSIONS

MINIMUM_NORMAL: Final = 10
"""Fewer normal images leave less than eight to train on."""
TEST_SHARE: Final = 0.2
VALIDATION_SHARE: Final = 0.1


def images_in(folder: Path) -> list[Path]:
    """List the images in ``folder`` and below it, in the order in which anomalib pairs them with masks."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())


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
        count = len(images_in(self.normal))
        if self.normal_test is None:
            count -= int(count * TEST_SHARE)
        return count - int(count * self._validation_share(count))

    def datamodule_config(self, batch_size: int = 16, seed: int = 0) -> dict[str, Any]:
        """Return the ``data`` section of a config: testing on what is anomalous, validating on normal images only."""
        count = len(images_in(self.normal))
        if self.normal_test is None:
            count -= int(count * TEST_SHARE)
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
                "val_split_ratio": self._validation_share(count),
                "seed": seed,
            },
        }

    @staticmethod
    def _validation_share(count: int) -> float:
        # anomalib rounds the number of validation images down: a tenth of eight would be none.
        return max(VALIDATION_SHARE, 1.5 / count)


def find_images(root: Path) -> ImageFolder:
    """Find out how a user's folder is arranged.

    Raises:
        NotADirectoryError: If ``root`` is no folder.
        ValueError: If it is arranged in neither way, or too few images or not all masks are there.
    """
    root = root.resolve()
    if not root.is_dir():
        msg = f"Expected a folder of images, got {root}. Do give a folder that exists."
        raise NotADirectoryError(msg)
    found = _mvtec(root) or _simple(root)
    if found is None:
        names = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        msg = (
            f"Expected {root} to hold train/good and test/<type> as in MVTec AD, or good and bad, each with images "
            f"({', '.join(IMG_EXTENSIONS)}), got {names}. Do arrange the images in one of these ways."
        )
        raise ValueError(msg)
    count = len(images_in(found.normal))
    if count < MINIMUM_NORMAL:
        msg = f"Expected at least {MINIMUM_NORMAL} normal images in {found.normal}, got {count}. Do add normal images."
        raise ValueError(msg)
    return found


def _mvtec(root: Path) -> ImageFolder | None:
    normal, test, truth = root / "train" / "good", root / "test", root / "ground_truth"
    if not test.is_dir() or not images_in(normal):
        return None
    abnormal = tuple(folder for folder in sorted(test.iterdir()) if folder.name != "good" and images_in(folder))
    if not abnormal:
        return None
    masks = tuple(truth / folder.name for folder in abnormal) if truth.is_dir() else ()
    for images, folder in zip(abnormal, masks, strict=False):
        _check_masks(images, folder)
    normal_test = test / "good"
    return ImageFolder(root, normal, normal_test if images_in(normal_test) else None, abnormal, masks)


def _simple(root: Path) -> ImageFolder | None:
    normal, abnormal = root / "good", root / "bad"
    if not images_in(normal) or not images_in(abnormal):
        return None
    return ImageFolder(root, normal, None, (abnormal,), ())


def _check_masks(images: Path, masks: Path) -> None:
    """Check that masks pair with images in the order of their names, which is how anomalib pairs them."""
    image_files, mask_files = images_in(images), images_in(masks)
    for image, mask in zip(image_files, mask_files, strict=False):
        if mask.stem not in {image.stem, f"{image.stem}_mask"}:
            msg = (
                f"Expected the masks in {masks} to be named as the images in {images}, or with _mask added, and to "
                f"sort alike, got {mask.name} for {image.name}. Do rename them (001 instead of 1), or remove "
                "ground_truth."
            )
            raise ValueError(msg)
    if len(image_files) != len(mask_files):
        msg = (
            f"Expected one mask in {masks} for each of the {len(image_files)} images in {images}, got "
            f"{len(mask_files)}. Do complete them, or remove ground_truth."
        )
        raise ValueError(msg)
