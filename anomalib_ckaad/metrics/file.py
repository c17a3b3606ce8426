"""A file with the test metrics: anomalib prints them, but does not save them."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl

from anomalib_ckaad.files import write_whole
from anomalib_ckaad.host.trainer import datamodule_of

FILE_NAME = "metrics.json"
logger = logging.getLogger(__name__)


def write_metrics(folder: Path, metrics: Mapping[str, float], **about: str | None) -> Path:
    """Write metrics as JSON.

    Args:
        folder: Where to; made if missing.
        metrics: Names and values.
        **about: What was tested, such as the checkpoint and the data.

    Returns:
        The path of the file, ``metrics.json``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     json.loads(write_metrics(Path(folder), {"image_AUROC": 0.5}, data="bottle").read_text())
        {'data': 'bottle', 'metrics': {'image_AUROC': 0.5}}
    """
    path = folder / FILE_NAME
    write_whole(path, json.dumps({**about, "metrics": dict(metrics)}, indent=2) + "\n")
    return path


def write_test_metrics(trainer: pl.Trainer, model: str) -> None:
    """Write the results of a test next to the tested checkpoint, or where a checkpoint would be saved.

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
