"""A file with the test metrics: anomalib prints them and keeps none."""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl

from anomalib_ckaad.host.trainer import datamodule_of

FILE_NAME = "metrics.json"
logger = logging.getLogger(__name__)


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


def write_test_metrics(trainer: pl.Trainer, model: str) -> None:
    """Write what a trainer has just tested beside the checkpoint it tested, or where one would be.

    Args:
        trainer: A trainer at the end of its test.
        model: Name of the model.
    """
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return
    checkpoint = trainer.ckpt_path or getattr(trainer.checkpoint_callback, "best_model_path", None) or None
    folder = Path(checkpoint).parent if checkpoint else Path(trainer.default_root_dir) / "weights" / "lightning"
    datamodule = datamodule_of(trainer)
    path = write_metrics(
        folder,
        {name: float(value) for name, value in trainer.callback_metrics.items()},
        model=model,
        checkpoint=str(checkpoint) if checkpoint else None,
        data=getattr(datamodule, "name", None),
        category=getattr(datamodule, "category", None),
    )
    logger.info("Wrote the metrics to %s.", path)
