"""Where the parts of an unpacked data set must be, and the message if one is missing."""

from dataclasses import dataclass
from pathlib import Path

from anomalib_ckaad.data.reading.image_paths import has_images
from anomalib_ckaad.errors import MissingDataError


@dataclass(frozen=True)
class Layout:
    """Where the parts of a data set are.

    Args:
        folder: Name of the folder that the data set's archive unpacks to.
        tree: Its content, in one line.
        parts: Folders of images, and files, that must exist; each with the places where it may be.
        source: The archives, and the page to get them from.
    """

    folder: str
    tree: str
    parts: tuple[tuple[str, ...], ...]
    source: str

    def find(self, root: Path) -> Path:
        """Find the folder that holds the parts: ``root``, or the folder of the archive's name in it.

        Raises:
            MissingDataError: If a part is missing, or is a folder without images.
        """
        found, missing = min(
            ((folder, self._missing(folder)) for folder in (root, root / self.folder)), key=lambda pair: len(pair[1])
        )
        if missing:
            problem = f"{found} has no {' and no '.join(missing)}."
            if len(missing) == len(self.parts):
                problem = f"{root} does not hold the data set {self.folder}."
            raise MissingDataError(self.message(root, problem))
        return found

    def message(self, root: Path, problem: str) -> str:
        """Say what is wrong, what must be in ``root``, and where to get it."""
        return (
            f"{problem} There must be {self.folder}/{self.tree}, or its content, in {root}: "
            f"unpack {self.source} there, or correct `root`."
        )

    def _missing(self, folder: Path) -> list[str]:
        return [places[0] for places in self.parts if not any(_is_filled(folder / place) for place in places)]


def _is_filled(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and has_images(path))


def class_folders(splits: tuple[str, ...], classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Parts of a layout that has a folder for each class in a folder for each split.

    Example:
        >>> class_folders(("train", "test"), ("good",))
        (('train/good',), ('test/good',))
    """
    return tuple((f"{split}/{name}",) for split in splits for name in classes)
