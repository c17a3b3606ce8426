"""Features of a frozen backbone in a folder, for all processes and runs that ask the same of the same images."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

try:
    import fcntl
except ImportError:  # Windows: two processes may then overstep the limit together
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

FORMAT = 2
SUFFIX = ".features"
SIZE_FILE = ".features-size"
OWN_FOLDERS = f"{'[0-9a-f]' * 32}/{'[0-9a-f]' * 2}"
"""Where its files lie; nothing else in the folder is looked at."""
GIB = 2**30


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
    digest = hashlib.sha256(f"{image.dtype} {tuple(image.shape)}".encode())
    digest.update(bytes_of(image))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """What a tensor holds, row by row."""
    array: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


class FeatureFolder:
    """One file an image, mapped into memory to be read, written under another name first.

    Whatever is wrong with the folder, training goes on without it: a damaged file is computed again, a full or
    read-only disk ends the writing; either is said once.

    Args:
        root: Folder of all such features; made when the first is written. Delete it, or any file in it, at will.
        limit: Bytes that it may hold in all. What does not fit is computed every time.
        configuration: All that features depend on but the image: backbone, weights, stages, precision, versions.

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
        """Features of an image, one tensor a stage, or None where there are none that are whole.

        Args:
            key: Digest of the image, from ``hash_image``.
        """
        path = self._path(key)
        try:
            if not path.exists():
                return None
            return _unpack(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            self._say("damaged", f"Expected features in {path}, got a damaged file ({error}). They are computed again.")
            return None

    def write(self, key: str, features: Sequence[Tensor]) -> None:
        """Keep features of an image where there is room.

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
            with self._locked():  # until it is written: another process may be counting files
                there = path.stat().st_size if path.exists() else 0  # damaged, or another process was faster
                held = self._count()
                if held + len(packed) - there <= self.limit:
                    _write_whole(path, packed)
                    self._note(held + len(packed) - there)
                    return
                self._writes = False
            self._say(
                "full",
                f"Expected room for features in {self.root}, got {held / GIB:.3g} GiB there with a cache_limit of "
                f"{self.limit / GIB:.3g}: what does not fit is computed each time. Do raise cache_limit, or delete the "
                "folders of other weights and settings in it.",
            )
        except OSError as error:
            self._writes = False
            self._say("unwritable", f"Expected to write features to {self.root}, got {error}. Training does without.")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}{SUFFIX}"

    def _count(self) -> int:
        """Bytes that the folder holds."""
        if not self._counted:  # what was deleted or left behind since is seen once a run
            (self.folder / "configuration.json").write_text(self._described, encoding="utf-8")
            self._counted = True
            return self._bytes_held()
        try:
            return int((self.root / SIZE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return self._bytes_held()

    def _note(self, held: int) -> None:
        (self.root / SIZE_FILE).write_text(str(held), encoding="utf-8")

    def _bytes_held(self) -> int:
        if fcntl is not None:  # parts are of processes that were killed while writing: others hold the lock
            for part in self.root.glob(f"{OWN_FOLDERS}/*.part"):
                with suppress(OSError):
                    part.unlink()
        return sum(file.stat().st_size for file in self.root.glob(f"{OWN_FOLDERS}/*{SUFFIX}"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / ".features-lock").open("a") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
            yield

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning(sentence)


def _write_whole(path: Path, content: bytes) -> None:
    """Under a name of its own first: others see the whole file or none."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)  # as any other new file: folders are shared
        Path(temporary).replace(path)
    except OSError:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _pack(features: Sequence[Tensor]) -> bytes:
    """One line of JSON, then the tensors' bytes one after another."""
    payload = b"".join(bytes_of(stage) for stage in features)
    stages = [{"dtype": str(stage.dtype).removeprefix("torch."), "shape": list(stage.shape)} for stage in features]
    header = {"stages": stages, "sha256": _digest(stages, payload)}
    return json.dumps(header).encode() + b"\n" + payload


def _digest(stages: object, payload: bytes | memoryview) -> str:
    """Of all that is in a file."""
    digest = hashlib.sha256(json.dumps(stages).encode())
    digest.update(payload)
    return digest.hexdigest()


def _unpack(path: Path) -> list[Tensor]:
    """The tensors of a file, copied out of the mapped file, which may be deleted at any time.

    Raises:
        ValueError: If the file is not whole.
    """
    content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    header_bytes, found, _ = content[: 2**16].numpy().tobytes().partition(b"\n")
    header = json.loads(header_bytes) if found else {}
    payload = content[len(header_bytes) + 1 :]
    if _digest(header.get("stages"), bytes_of(payload)) != header.get("sha256"):
        msg = "its digest is another"
        raise ValueError(msg)
    features, begin = [], 0
    for stage in header["stages"]:
        dtype = getattr(torch, stage["dtype"])
        stage_bytes = torch.Size(stage["shape"]).numel() * dtype.itemsize
        features.append(payload[begin : begin + stage_bytes].clone().view(dtype).view(stage["shape"]))
        begin += stage_bytes
    return features
