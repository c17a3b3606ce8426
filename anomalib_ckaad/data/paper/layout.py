"""How a data set lies on the disk once it is unpacked, and what to say where it does not."""

from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_ckaad.errors import MissingDataError


def images_in(folder: Path) -> list[Path]:
    """List the images that lie directly in ``folder`` by name, without the hidden ones that macOS adds to archives."""
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


@dataclass(frozen=True)
class Layout:
    """Where the parts of a data set are.

    Args:
        folder: Name of the folder that the data set's archive unpacks to.
        tree: What is in it, in one line.
        parts: Folders with images and files that have to be there, each with the places where it may be.
        source: Archives and the page to get them from.
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
            got = "none of it" if len(missing) == len(self.parts) else f"no {' and no '.join(missing)} in {found}"
            raise MissingDataError(self.message(root, got))
        return found

    def message(self, root: Path, got: str) -> str:
        """Say what was expected in ``root``, what was found instead, and where to get it."""
        return (
            f"Expected {self.folder}/{self.tree} or its content in {root}, got {got}. "
            f"Do unpack {self.source} there, or correct root."
        )

    def _missing(self, folder: Path) -> list[str]:
        return [places[0] for places in self.parts if not any(_is_filled(folder / place) for place in places)]


def _is_filled(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(_is_image(entry) for entry in path.iterdir()))


def class_folders(splits: tuple[str, ...], classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Parts of a layout that has a folder for each class in a folder for each split.

    Example:
        >>> class_folders(("train", "test"), ("good",))
        (('train/good',), ('test/good',))
    """
    return tuple((f"{split}/{name}",) for split in splits for name in classes)
