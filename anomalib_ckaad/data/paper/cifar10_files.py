"""CIFAR-10 as image files: torchvision's pickled batches written to PNG once, as anomalib reads images by path."""

import json
import logging
from pathlib import Path
from typing import Final, Literal, get_args

import torchvision
from PIL import Image

from anomalib_ckaad.data.paper.layout import Layout
from anomalib_ckaad.data.reading.image_paths import images_in
from anomalib_ckaad.errors import DataError
from anomalib_ckaad.files import write_folder_whole

logger = logging.getLogger(__name__)

Cifar10Class = Literal["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CLASSES: Final[tuple[Cifar10Class, ...]] = get_args(Cifar10Class)
PNG_FOLDER: Final = "cifar-10-png"
COUNTS_FILE: Final = "images.json"
BATCHES: Final = "cifar-10-batches-py"
BATCH_FILES: Final = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
LAYOUT: Final = Layout(
    folder="CIFAR10",
    tree=f"{BATCHES}/{{data_batch_1..5,test_batch,batches.meta}}",
    parts=tuple((f"{BATCHES}/{name}",) for name in BATCH_FILES),
    source="cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html (or set download to true)",
)


def png_folder(root: Path) -> Path | None:
    """Folder of the written images in ``root`` or in ``root/CIFAR10``; None if there is none yet."""
    return next((f for f in (root / PNG_FOLDER, root / LAYOUT.folder / PNG_FOLDER) if f.is_dir()), None)


def write_png(root: Path) -> Path:
    """Write ``cifar-10-png/{train,test}/<class>/<number>.png`` beside torchvision's batches, unless it is there.

    Returns:
        The folder of the images.

    Raises:
        MissingDataError: If neither the images nor torchvision's batches are there.
        DataError: If a file of torchvision's batches is damaged, or images of an earlier call are missing.
    """
    folder = png_folder(root)
    if folder is None:
        source = LAYOUT.find(root)
        folder = source / PNG_FOLDER
        logger.info("Writing the images of CIFAR-10 to %s; this is done only once.", folder)
        write_folder_whole(folder, lambda temporary: _write(source, temporary))
    _check(folder)
    return folder


def _write(source: Path, folder: Path) -> None:
    for split in ("train", "test"):
        try:
            data = torchvision.datasets.CIFAR10(root=source, train=split == "train", download=False)
        except RuntimeError as error:  # how torchvision says that a checksum is wrong
            msg = f"The files of CIFAR-10 in {source / BATCHES} are damaged ({error}). Unpack {LAYOUT.source} again."
            raise DataError(msg) from error
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        for index, (pixels, label) in enumerate(zip(data.data, data.targets, strict=True)):
            Image.fromarray(pixels).save(folder / split / CLASSES[label] / f"{index:05d}.png")
    (folder / COUNTS_FILE).write_text(json.dumps(_counts(folder), indent=2) + "\n", encoding="utf-8")


def _counts(folder: Path) -> dict[str, int]:
    places = [f"{split}/{name}" for split in ("train", "test") for name in CLASSES]
    return {place: len(images_in(folder / place)) for place in places if (folder / place).is_dir()}


def _check(folder: Path) -> None:
    file = folder / COUNTS_FILE
    wanted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    got = _counts(folder)
    if wanted != got:
        expected = f"its {COUNTS_FILE} is missing" if wanted is None else f"{sum(wanted.values())} images were written"
        msg = (
            f"The folder {folder} is incomplete: {expected}, {sum(got.values())} images are there. "
            "Delete it to have it made again."
        )
        raise DataError(msg)
