"""``anomalib-ckaad validate``: whether an exported file gives the same results as its checkpoint."""

from pathlib import Path
from typing import Literal

from anomalib_ckaad.errors import ConfigurationError


def validate(
    *,
    ckpt: Path,
    exported: Path,
    data: Path,
    tolerance: float = 1e-4,
    precision: Literal["f32", "bf16", "f16"] = "f32",
) -> int:
    """Check that an exported file gives the same results as its checkpoint.

    Args:
        ckpt: The checkpoint.
        exported: The file that ``anomalib export`` wrote: .onnx, .xml or .pt.
        data: A folder of images (in folders named good or normal: normal, in others: anomalous), or a config of
            ``anomalib train``, whose test images are used.
        tolerance: Largest difference of scores and maps; labels must be equal.
        precision: Precision in which OpenVINO computes.
    """
    if not tolerance >= 0:  # nor NaN, which every difference would exceed
        msg = f"--tolerance must be at least 0, not {tolerance:g}."
        raise ConfigurationError(msg)
    from anomalib_ckaad.cli.validation import run_validate

    return run_validate(ckpt, exported, data, tolerance, precision)
