"""A file with the test metrics: anomalib prints them and keeps none."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

FILE_NAME = "metrics.json"


def write_metrics(folder: Path, metrics: Mapping[str, float], **about: str | None) -> Path:
    """Write metrics as JSON, to a temporary name first, so that a reader never sees half a file.

    Args:
        folder: Where to; made if missing.
        metrics: Names and values.
        **about: What they are of, such as the checkpoint and the data.

    Returns:
        The path of the file, ``metrics.json``.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     json.loads(write_metrics(Path(folder), {"image_AUROC": 0.5}, data="bottle").read_text())
        {'data': 'bottle', 'metrics': {'image_AUROC': 0.5}}
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "metrics": dict(metrics)}, indent=2)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
        file.write(text + "\n")
    path = folder / FILE_NAME
    Path(file.name).chmod(0o666 & ~_umask())
    Path(file.name).replace(path)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
