"""Features of a frozen backbone in a folder, for all processes and runs that ask the same of the same images."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from anomalib_ckaad.features.transforms import describe_transform
from anomalib_ckaad.files import PART, write_whole
from anomalib_ckaad.network.backbone import FrozenBackbone

logger = logging.getLogger(__name__)

FORMAT = 3
SUFFIX = ".safetensors"
SIZE_FILE = ".features-size"
LOCK_FILE = ".features-lock"
SECONDS = 60
"""How long to wait for other processes; a disk that cannot lock files makes one wait for nothing."""
OWN_FOLDERS = f"{'[0-9a-f]' * 32}/{'[0-9a-f]' * 2}"
"""Where its files lie; nothing else in the folder is looked at."""
GIB = 2**30


class FeatureFolder:
    """One file of safetensors for each image.

    Training never stops because of the folder: features in a damaged file are computed again, and a full or read-only
    disk ends the writing. Either is logged once.

    Args:
        root: Folder of all such features; made when the first is written. Delete it, or any file in it, at will.
        limit: Bytes that it may hold in all. What does not fit is computed every time.
        configuration: All that features depend on except the image: backbone, weights, stages, precision, versions.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = FeatureFolder(Path(root), limit=2**20, configuration={"backbone": "resnet18"})
        ...     folder.write("0" * 64, [torch.arange(3.0)])
        ...     folder.read("0" * 64), folder.read("1" * 64)
        ([tensor([0., 1., 2.])], None)
    """

    def __init__(self, root: Path, limit: float, configuration: Mapping[str, str]) -> None:
        self.root, self.limit = root, limit
        described = json.dumps({"format": str(FORMAT), **configuration}, sort_keys=True)
        self.folder = root / hashlib.sha256(described.encode()).hexdigest()[:32]
        self._described = described
        self._writes = limit > 0
        self._counted = False
        self._said: set[str] = set()

    def read(self, key: str) -> list[Tensor] | None:
        """Features of an image, one tensor a stage; None where there are none, or they are damaged.

        Args:
            key: Digest of the image, from ``hash_image``.
        """
        path = self._path(key)
        try:
            return _read(path) if path.exists() else None
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            self._say("damaged", f"The features in {path} are damaged ({error}). They are computed again.")
            return None

    def write(self, key: str, features: Sequence[Tensor]) -> None:
        """Keep the features of an image if there is room.

        Args:
            key: Digest of the image, from ``hash_image``.
            features: One tensor a stage.
        """
        if not self._writes:
            return
        path = self._path(key)
        try:
            packed = _pack(features)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / LOCK_FILE, timeout=SECONDS):  # until it is written: others may be counting files
                there = path.stat().st_size if path.exists() else 0  # damaged, or another process was faster
                held = self._count() + len(packed) - there
                if held <= self.limit:
                    write_whole(path, packed)
                    (self.root / SIZE_FILE).write_text(str(held), encoding="utf-8")
                    return
                self._writes = False
            self._say(
                "full",
                f"The cache of features {self.root} has reached its limit of {self.limit / GIB:.3g} GiB. The features "
                "of further images are computed each time. Raise `folder_limit` of `cache`, or delete the folders of "
                "other weights and settings in it.",
            )
        except (OSError, NotImplementedError, RuntimeError) as error:  # of the disk, or of a disk without locks
            self._writes = False
            self._say("unwritable", f"Cannot write features to {self.root} ({error}). Training goes on without.")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}{SUFFIX}"

    def _count(self) -> int:
        """Bytes that the folder holds."""
        if not self._counted:  # what was deleted or left behind since is seen once a run
            write_whole(self.folder / "configuration.json", self._described)
            self._counted = True
            return self._bytes_held()
        try:
            return int((self.root / SIZE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return self._bytes_held()

    def _bytes_held(self) -> int:
        for part in self.root.glob(f"{OWN_FOLDERS}/{PART}*"):  # of killed processes: writers hold the lock
            with suppress(OSError):
                part.unlink()
        return sum(file.stat().st_size for file in self.root.glob(f"{OWN_FOLDERS}/[!.]*{SUFFIX}"))

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning(sentence)


def open_folder(root: str | Path, limit: float, backbone: FrozenBackbone, transform: object) -> FeatureFolder:
    """The features in a folder that this backbone, as it is now, gives.

    Args:
        root: The folder; it may hold the features of other backbones as well.
        limit: Bytes that it may hold in all.
        backbone: With its weights loaded.
        transform: What resizes and normalizes images; None for nothing.
    """
    configuration = {
        "backbone": backbone.name,
        "weights": hash_weights(backbone.network),
        "stages": " ".join(stage.name for stage in backbone.stages),
        "transform": "none" if transform is None else describe_transform(transform),
        "timm": timm.__version__,
        "torch": torch.__version__,
    }
    return FeatureFolder(Path(root).expanduser(), limit, configuration)


def hash_weights(module: nn.Module) -> str:
    """A digest of all tensors of a module, their names, shapes and types.

    Example:
        >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> hash_weights(one) == hash_weights(one), hash_weights(one) == hash_weights(other)
        (True, False)
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def hash_image(image: Tensor) -> str:
    """A digest of what the backbone is given: it changes with the file, how it is read, and every transform."""
    return _digest([image])


def bytes_of(tensor: Tensor) -> memoryview:
    """What a tensor holds, row by row."""
    array: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _pack(features: Sequence[Tensor]) -> bytes:
    tensors = {str(stage): one.detach().cpu().contiguous() for stage, one in enumerate(features)}
    return save(tensors, metadata={"sha256": _digest(features)})


def _read(path: Path) -> list[Tensor]:
    """The tensors of a file, copied out of the mapped file, which may be deleted at any time.

    Raises:
        ValueError: If the file holds others than were written.
    """
    with safe_open(path, "pt") as file:
        names = sorted(file.keys(), key=int)
        features: list[Tensor] = [file.get_tensor(name).clone() for name in names]
        written = (file.metadata() or {}).get("sha256")
    if _digest(features) != written:
        msg = "another checksum"
        raise ValueError(msg)
    return features
