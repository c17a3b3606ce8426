"""Whether training steps run in bfloat16: where the processor multiplies such numbers in hardware, or as asked."""

import logging
from contextlib import AbstractContextManager, nullcontext

import lightning.pytorch as pl
import torch
from torch import Tensor

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.host.torch_state import has_fast_bfloat16

logger = logging.getLogger(__name__)

SUPPORTED_PRECISIONS = ("32-true", "64-true", "bf16-mixed")
LEAST_PIXELS = 128 * 128
"""Smaller images gain less: reading the weights, which stay in float32, takes most of their time."""


class TrainingPrecision:
    """Chooses bfloat16 or full precision for the steps of a training; what is scored always is in full precision.

    The choice depends on the processor and the arguments alone, so that the same seed gives the same model.

    Args:
        wanted: True or False where the user has decided. None takes bfloat16 on CPUs that multiply such numbers in
            hardware, for images of 128x128 pixels and more. GPUs get it only if asked: it saves them
            little time.
    """

    def __init__(self, wanted: bool | None = None) -> None:  # noqa: FBT001 - three values
        self.wanted = wanted
        self.uses_bfloat16 = False
        self.resumed: bool | None = None
        """What a training that is resumed was begun in, from its checkpoint."""

    def begin(self, trainer: pl.Trainer, device: torch.device, dtype: torch.dtype) -> None:
        """Choose for a training that is about to start.

        Raises:
            ConfigurationError: If the trainer's precision is one that CKAAD's losses do not survive.
        """
        if trainer.precision not in SUPPORTED_PRECISIONS:
            msg = (
                f"Ckaad cannot be trained in precision {trainer.precision}. Use one of "
                f"{', '.join(SUPPORTED_PRECISIONS)}, such as --trainer.precision bf16-mixed."
            )
            raise ConfigurationError(msg)
        resumed = self.resumed if trainer.ckpt_path else None
        self.resumed = None
        chosen = self.wanted if self.wanted is not None else resumed
        wanted = use_bfloat16(chosen, trainer.precision, device, dtype)
        self.uses_bfloat16 = trainer.strategy.broadcast(wanted)  # every process in the first one's precision
        if self.wanted is None and self.uses_bfloat16:
            reason = "which this processor is faster in" if resumed is None else "as this training was begun"
            logger.info(
                "Training steps run in bfloat16, %s, for images of 128x128 pixels and more; `autocast: false` turns "
                "it off.",
                reason,
            )

    def covers(self, images: Tensor) -> bool:
        """Whether a step on images (N, 3, H, W) runs in bfloat16: small ones do only if it was asked for."""
        is_large = images.shape[-2] * images.shape[-1] >= LEAST_PIXELS
        return self.uses_bfloat16 and (is_large or self.wanted is True)

    def step(self, images: Tensor) -> AbstractContextManager[object]:
        """Autocast for a step on images (N, 3, H, W), or nothing: what the trainer has chosen stays as it is."""
        return torch.autocast(images.device.type, torch.bfloat16) if self.covers(images) else nullcontext()


def use_bfloat16(
    wanted: bool | None,  # noqa: FBT001 - three values
    precision: str,
    device: torch.device,
    dtype: torch.dtype,
) -> bool:
    """Whether training steps run under bfloat16 autocast that the trainer has not asked for.

    Args:
        wanted: As for ``TrainingPrecision``.
        precision: The trainer's; anything but its default ``32-true`` has been chosen and stands.
        device: Where training runs; only CPUs and CUDA's devices are looked at.
        dtype: Of the weights; only float32 ones are.

    Example:
        >>> use_bfloat16(True, "32-true", torch.device("cpu"), torch.float32)
        True
        >>> use_bfloat16(True, "64-true", torch.device("cpu"), torch.float64)
        False
    """
    if wanted is False or precision != "32-true" or device.type not in {"cpu", "cuda"} or dtype != torch.float32:
        return False
    return wanted is True or (device.type == "cpu" and has_fast_bfloat16())
