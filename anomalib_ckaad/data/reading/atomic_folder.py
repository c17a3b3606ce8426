"""Folders of made images: written whole or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_at_once(folder: Path, write: Callable[[Path], None]) -> bool:
    """Let ``write`` fill a temporary folder beside ``folder``, and rename that at the end.

    So an interrupted run leaves nothing that looks finished, and of two runs at once the first one's files stand.

    Args:
        folder: Folder that does not exist yet; its parents are made if missing.
        write: Fills the folder it is called with.

    Returns:
        Whether ``folder`` is what ``write`` has written; False if another run was faster.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> write_at_once(root / "made", lambda folder: None), (root / "made").is_dir()
        (True, True)
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(temporary)
        # mkdtemp makes a folder for its owner alone; the images are as public as the folder they lie in
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
