"""The reader of checkpoints that a trainer uses: one that never runs code of theirs."""

import zipfile
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from anomalib_ckaad.errors import CheckpointError
from anomalib_ckaad.host.tensor_files import loading_error

ONLY_PLAIN = "`weights_only` is False, which lets a checkpoint run code. Leave it out: Ckaad's hold plain data only."
LIGHTNINGS_OWN = {"state_dict", "pytorch-lightning_version"}


class SafeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's reader of checkpoints, which never runs code of theirs, and says in one sentence what is wrong.

    A trainer leaves ``weights_only`` open, and then an environment variable, or an address that begins with http, turns
    it off.
    """

    def load_checkpoint(
        self,
        path: Any,  # noqa: ANN401 - Lightning's
        map_location: Any = None,  # noqa: ANN401 - Lightning's
        weights_only: bool | None = True,  # noqa: FBT001, FBT002 - Lightning's
    ) -> dict[str, Any]:
        """Load a checkpoint of tensors and plain data.

        Raises:
            CheckpointError: If it is missing, unreadable or holds anything else, or if ``weights_only`` is False.
        """
        if weights_only is False:
            raise CheckpointError(ONLY_PLAIN)
        _check_path(path)
        try:
            _check_sums(path)
            content: Any = super().load_checkpoint(path, map_location, weights_only=True)
        except Exception as error:  # truncated zip, bad header, foreign pickle: many types, one meaning
            raise CheckpointError(loading_error(path, error)) from error
        if not isinstance(content, dict) or not content.keys() >= LIGHTNINGS_OWN:
            raise CheckpointError(not_of_ckaad(path))
        return content


def read_tensors(file: IO[bytes]) -> dict[str, Any]:
    """Content of an open file with tensors and plain data.

    Raises:
        CheckpointError: If it is unreadable or holds anything else.
    """
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated zip, bad header, foreign pickle: many types, one meaning
        raise CheckpointError(loading_error("the open file", error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(not_of_ckaad())
    return content


def load_safely(trainer: pl.Trainer) -> None:
    """Make a trainer read ``ckpt_path`` with ``SafeCheckpointIO``, unless it was given a reader of the user's own."""
    reader = trainer.strategy.checkpoint_io
    if type(reader) in {AnomalibCheckpointIO, TorchCheckpointIO}:
        trainer.strategy.checkpoint_io = SafeCheckpointIO(getattr(reader, "extra_safe_globals", None))


def not_of_ckaad(path: object = None) -> str:
    """What to say of a checkpoint that is of another model, or none at all."""
    return (
        f"The checkpoint{f' {path}' if path else ''} is not of Ckaad: it has no auto-encoder. Pass one that training "
        "Ckaad has written, or --model with the model that wrote this one."
    )


def _check_path(path: object) -> None:
    if not isinstance(path, str | Path) or "://" in str(path):
        return  # an open file or an address: whoever opens it says what is wrong
    if Path(path).is_dir():
        msg = f"The checkpoint {path} is a folder. Pass the file in it, such as {Path(path) / 'model.ckpt'}."
        raise CheckpointError(msg)
    if not Path(path).is_file():
        msg = f"There is no checkpoint {path}. Correct the path."
        raise CheckpointError(msg)


def _check_sums(path: object) -> None:
    """Compare a file's check sums, which torch does not look at: a flipped bit would be a weight of any size."""
    if isinstance(path, str | Path) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            msg = f"damaged: {damaged}"
            raise zipfile.BadZipFile(msg)
