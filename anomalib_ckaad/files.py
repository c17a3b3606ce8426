"""Files of the package: written whole or not at all, their digests, and where the package's cache lies."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "ANOMALIB_CKAAD_CACHE"
PART: Final = ".part-"
"""How the names of files begin that are being written."""


def cache_root() -> Path:
    """Folder of files that can be made or fetched again: ``$ANOMALIB_CKAAD_CACHE``, or ``~/.cache/anomalib-ckaad``."""
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own).expanduser() if own else Path.home() / ".cache" / "anomalib-ckaad"


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path of the same ending in the same folder, renamed to ``path`` at the end unless an error came.

    So a reader sees the whole file or none, and what was there before stays until then. Parents are made if missing.

    Example:
        >>> with tempfile.TemporaryDirectory() as root, written_whole(Path(root) / "a" / "b.txt") as temporary:
        ...     _ = temporary.write_text("all of it")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{PART}{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to a file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_folder_whole(folder: Path, write: Callable[[Path], None]) -> bool:
    """Let ``write`` fill a temporary folder beside ``folder``, and rename that at the end.

    So an interrupted run leaves nothing that looks finished, and of two runs at once the first one's files stand.

    Args:
        folder: Folder that does not exist yet; its parents are made if missing.
        write: Fills the folder it is called with.

    Returns:
        Whether ``folder`` is what ``write`` has written; False if another run was faster.

    Example:
        >>> root = Path(tempfile.mkdtemp())
        >>> write_folder_whole(root / "made", lambda folder: None), (root / "made").is_dir()
        (True, True)
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
    try:
        write(temporary)
        # mkdtemp makes a folder for its owner alone; the files are as public as the folder they lie in.
        temporary.chmod(folder.parent.stat().st_mode & 0o777)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            return False
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
