"""The embedded texture set on disk: written once, whole or not at all, in MVTec AD's folder layout."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from anomalib_ckaad.data.reading.atomic_folder import write_at_once
from anomalib_ckaad.data.textures.images import CATEGORIES, DEFECTS, Category, Part, make_image

GENERATOR_VERSION: Final = 1
"""To be raised whenever the same parameters give other pixels."""
PARAMETERS_FILE: Final = "textures.json"
MINIMUM_SIZE: Final = 32
"""Pixels. A scratch is two across at 256 and vanishes below."""


@dataclass(frozen=True)
class TextureParameters:
    """What decides every pixel of one category of the set.

    Args:
        category: ``brick``, ``gravel`` or ``grass``.
        image_size: Side of the square images in pixels.
        train_images: Number of normal images to train on.
        validation_images: Number of normal images to validate on.
        test_good_images: Number of normal images to test on.
        images_per_defect: Number of test images of each kind of defect.
        seed: Seed of everything that is drawn.
        known_per_defect: Number of images of each kind of defect that are no test images: views of the training part.

    Raises:
        ValueError: If the category is unknown or a number is too small.
    """

    category: Category
    image_size: int
    train_images: int
    validation_images: int
    test_good_images: int
    images_per_defect: int
    seed: int
    known_per_defect: int = 0

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            msg = f"Expected a category among {', '.join(CATEGORIES)}, got {self.category!r}. Do choose one of them."
            raise ValueError(msg)
        if self.image_size < MINIMUM_SIZE:
            msg = (
                f"Expected image_size of at least {MINIMUM_SIZE} pixels, got {self.image_size}. "
                "Do use 256, for which the defects are made."
            )
            raise ValueError(msg)
        for name in ("train_images", "validation_images", "test_good_images", "images_per_defect"):
            if getattr(self, name) < 1:
                msg = f"Expected {name} of at least 1, got {getattr(self, name)}. Do ask for one image or more."
                raise ValueError(msg)
        if self.known_per_defect < 0:
            msg = f"Expected known_per_defect of at least 0, got {self.known_per_defect}. Do ask for none or more."
            raise ValueError(msg)
        if self.seed < 0:
            msg = f"Expected a texture_seed of at least 0, got {self.seed}. Do use a non-negative number."
            raise ValueError(msg)

    def images(self) -> list[tuple[Part, str, int]]:
        """List every image of the set as part, kind and running number."""
        listing: list[tuple[Part, str, int]] = [("train", "good", i) for i in range(self.train_images)]
        listing += [("validation", "good", i) for i in range(self.validation_images)]
        listing += [("test", "good", i) for i in range(self.test_good_images)]
        listing += [("test", kind, i) for kind in DEFECTS for i in range(self.images_per_defect)]
        return listing + [("train", kind, i) for kind in DEFECTS for i in range(self.known_per_defect)]

    def files(self) -> list[str]:
        """List every image and mask file, relative to the category's folder."""
        images = [file_of(part, kind, index) for part, kind, index in self.images()]
        tested = [(kind, index) for part, kind, index in self.images() if part == "test" and kind != "good"]
        return images + [f"ground_truth/{kind}/{index:03d}_mask.png" for kind, index in tested]

    def record(self) -> dict[str, Any]:
        """Return the parameters as they are kept beside the images."""
        record = {"generator_version": GENERATOR_VERSION, **asdict(self)}
        if not self.known_per_defect:  # sets made before there were any stay what they are
            del record["known_per_defect"]
        return record


def file_of(part: Part, kind: str, index: int) -> str:
    """Image file, relative to the category's folder.

    Known anomalies have an ending of their own: anomalib's reader of MVTec AD wants a mask for every anomaly among the
    PNG files, wherever they lie.

    Example:
        >>> file_of("test", "hole", 3), file_of("train", "good", 0), file_of("train", "hole", 1)
        ('test/hole/003.png', 'train/good/000.png', 'known/hole/001.bmp')
    """
    is_known = part == "train" and kind != "good"
    return f"known/{kind}/{index:03d}.bmp" if is_known else f"{part}/{kind}/{index:03d}.png"


def write_textures(root: Path, parameters: TextureParameters) -> bool:
    """Write one category of the set to ``root/category``, unless it is there already.

    Everything goes to a temporary folder beside it that is renamed at the end, so an interrupted run leaves nothing
    that looks finished, and of two runs at once the first one's images stand.

    Args:
        root: Folder of the set; made if missing.
        parameters: What to write.

    Returns:
        Whether anything was written.

    Raises:
        FileExistsError: If ``root/category`` holds something else, is incomplete, or was made with other parameters.
    """
    folder = root / parameters.category
    if folder.exists():
        check_textures(folder, parameters)
        return False
    if not write_at_once(folder, lambda temporary: _write_images(temporary, parameters)):
        check_textures(folder, parameters)
        return False
    return True


def check_textures(folder: Path, parameters: TextureParameters) -> None:
    """Check that ``folder`` holds exactly the set of ``parameters``.

    Raises:
        FileExistsError: If it does not. Nothing is deleted: the folder may be another run's, or hold other images.
    """
    record_file = folder / PARAMETERS_FILE
    mend = "Do delete the folder to have it made anew, or choose another root."
    if not record_file.is_file():
        msg = f"Expected {folder} to be missing or to hold {PARAMETERS_FILE}, got a folder without it. {mend}"
        raise FileExistsError(msg)
    try:
        found = json.loads(record_file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        msg = f"Expected {record_file} to hold the parameters of the textures, got something unreadable. {mend}"
        raise FileExistsError(msg)
    wanted = parameters.record()
    different = [
        f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted({*wanted, *found})
        if found.get(key) != wanted.get(key)
    ]
    if different:
        msg = f"Expected {folder} to be made with the parameters asked for, got {', '.join(different)}. {mend}"
        raise FileExistsError(msg)
    endings = {Path(name).suffix for name in parameters.files()}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in endings}
    listed = set(parameters.files())
    if present != listed:
        example = min(present ^ listed)
        state = "missing" if example in listed else "too many"
        msg = (
            f"Expected {folder} to hold {len(listed)} images and masks, got {len(listed - present)} missing and "
            f"{len(present - listed)} too many, such as {example} ({state}). {mend}"
        )
        raise FileExistsError(msg)


def _write_images(folder: Path, parameters: TextureParameters) -> None:
    for part, kind, index in parameters.images():
        image, mask, _ = make_image(parameters.category, kind, part, index, parameters.image_size, parameters.seed)
        path = folder / file_of(part, kind, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if part == "test" and kind != "good":
            path = folder / "ground_truth" / kind / f"{index:03d}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).convert("L").save(path)
    text = json.dumps(parameters.record(), indent=2) + "\n"
    with (folder / PARAMETERS_FILE).open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
