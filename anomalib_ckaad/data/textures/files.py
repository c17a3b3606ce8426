"""The textures on disk: written once, whole or not at all, in MVTec AD's folder layout."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from anomalib_ckaad.data.textures.images import CATEGORIES, DEFECTS, Category, Part, make_image
from anomalib_ckaad.errors import ConfigurationError, FileError
from anomalib_ckaad.files import write_folder_whole

GENERATOR_VERSION: Final = 1
"""Raise this number whenever the same parameters give other pixels."""
PARAMETERS_FILE: Final = "textures.json"
KNOWN_SUFFIX: Final = ".bmp"
MINIMUM_SIZE: Final = 32
"""Pixels. A scratch is two across at 256 and vanishes below."""


@dataclass(frozen=True)
class TextureParameters:
    """All parameters that the pixels of one category depend on.

    Args:
        category: ``brick``, ``gravel`` or ``grass``.
        image_size: Side of the square images in pixels.
        train_images: Number of normal images to train on.
        validation_images: Number of normal images to validate on.
        test_good_images: Number of normal images to test on.
        images_per_defect: Number of test images of each kind of defect.
        seed: Seed of everything that is drawn.
        known_per_defect: Number of known anomalies of each kind of defect, which show the training part.

    Raises:
        ConfigurationError: If the category is unknown or a number is too small.
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
            msg = f"`category` must be one of {', '.join(CATEGORIES)}, not {self.category!r}."
            raise ConfigurationError(msg)
        if self.image_size < MINIMUM_SIZE:
            msg = f"`image_size` must be at least {MINIMUM_SIZE} pixels, not {self.image_size}. The default is 256."
            raise ConfigurationError(msg)
        for name in ("train_images", "validation_images", "test_good_images", "images_per_defect"):
            if getattr(self, name) < 1:
                msg = f"`{name}` must be at least 1, not {getattr(self, name)}."
                raise ConfigurationError(msg)
        if self.known_per_defect < 0:
            msg = f"`known_per_defect` must be at least 0, not {self.known_per_defect}."
            raise ConfigurationError(msg)
        if self.seed < 0:
            msg = f"`texture_seed` must be at least 0, not {self.seed}."
            raise ConfigurationError(msg)

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
        if not self.known_per_defect:  # so that folders written before this parameter existed stay valid
            del record["known_per_defect"]
        return record


def file_of(part: Part, kind: str, index: int) -> str:
    """Image file, relative to the category's folder.

    Known anomalies are BMP files: anomalib's reader of MVTec AD expects a mask for every anomalous PNG file, wherever
    it lies.

    Example:
        >>> file_of("test", "hole", 3), file_of("train", "good", 0), file_of("train", "hole", 1)
        ('test/hole/003.png', 'train/good/000.png', 'known/hole/001.bmp')
    """
    is_known = part == "train" and kind != "good"
    return f"known/{kind}/{index:03d}{KNOWN_SUFFIX}" if is_known else f"{part}/{kind}/{index:03d}.png"


def write_textures(root: Path, parameters: TextureParameters) -> bool:
    """Write one category of the set to ``root/category``, unless it is there already.

    Args:
        root: Folder of the set; made if missing.
        parameters: What to write.

    Returns:
        Whether anything was written.

    Raises:
        FileError: If ``root/category`` holds something else, is incomplete, or was made with other parameters.
    """
    folder = root / parameters.category
    if folder.exists():
        check_textures(folder, parameters)
        return False
    if not write_folder_whole(folder, lambda temporary: _write_images(temporary, parameters)):
        check_textures(folder, parameters)
        return False
    return True


def check_textures(folder: Path, parameters: TextureParameters) -> None:
    """Check that ``folder`` holds exactly the set of ``parameters``.

    Raises:
        FileError: If it does not. Nothing is deleted, as the folder may hold other images or belong to another run.
    """
    record_file = folder / PARAMETERS_FILE
    advice = "Delete the folder to have it made again, or choose another `root`."
    if not record_file.is_file():
        msg = f"The folder {folder} exists, but has no {PARAMETERS_FILE}, so it holds something else. {advice}"
        raise FileError(msg)
    try:
        found = json.loads(record_file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        msg = f"Cannot read the parameters of the textures in {record_file}. {advice}"
        raise FileError(msg)
    wanted = parameters.record()
    different = [
        f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted({*wanted, *found})
        if found.get(key) != wanted.get(key)
    ]
    if different:
        msg = f"The textures in {folder} were made with {', '.join(different)}. {advice}"
        raise FileError(msg)
    endings = {Path(name).suffix for name in parameters.files()}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in endings}
    listed = set(parameters.files())
    if present != listed:
        example = min(present ^ listed)
        state = "missing" if example in listed else "too many"
        msg = (
            f"The folder {folder} does not hold exactly its {len(listed)} images and masks: {len(listed - present)} "
            f"missing and {len(present - listed)} too many, such as {example} ({state}). {advice}"
        )
        raise FileError(msg)


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
