"""Compares an exported file with its checkpoint on real images, for ``anomalib-ckaad validate``."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from anomalib_ckaad.errors import CheckpointError
from anomalib_ckaad.export.runtimes import Array, Precision, load_exported
from anomalib_ckaad.export.validate import Comparison, compare
from anomalib_ckaad.export.validation_images import NORMAL, find_test_images
from anomalib_ckaad.lightning_model import Ckaad

DIFFERS = 1
"""Exit status if checkpoint and exported file do not agree."""
QUARTILES = (25, 50, 75)


def run_validate(
    checkpoint: Path, exported: Path, data: Path, tolerance: float = 1e-4, precision: Precision = "f32"
) -> int:
    """Compare, print a table, and return the exit status: 0 if both agree within ``tolerance``, else 1.

    Args:
        checkpoint: Checkpoint of a fitted Ckaad.
        exported: The ``.pt``, ``.onnx`` or ``.xml`` file made from it.
        data: A folder of images, or a config for ``anomalib train``. See ``find_test_images``.
        tolerance: Largest difference of scores and maps that is allowed, at least 0.
        precision: OpenVINO's. See ``load_exported``.

    Raises:
        DataError: If the images cannot be used.
        CheckpointError: If the checkpoint is missing, unreadable or of another model.
        ExportError: If the exported file cannot be used.
        FileError: If the exported file is missing.
        MissingPackageError: If the runtime is not installed.
    """
    images = find_test_images(data)
    loaded = load_exported(exported, precision)
    found = compare(load_checkpoint(checkpoint), loaded, images)
    agree = found.within(tolerance)
    console = Console()
    console.print(make_table(found, loaded.runtime))
    if found.auroc is None:
        console.print(
            "No AUROC: it needs normal and anomalous images, all with finite scores. Images in folders named "
            f"{' or '.join(sorted(NORMAL))} are normal, images in other folders are anomalous.",
            soft_wrap=True,
        )
    verdict = "agree" if agree else "differ"
    console.print(f"Checkpoint and exported file {verdict}, at a tolerance of {tolerance:g}.", soft_wrap=True)
    return 0 if agree else DIFFERS


def load_checkpoint(path: Path) -> Ckaad:
    """Load a fitted model on the CPU, for inference.

    Raises:
        CheckpointError: If the file is missing, unreadable, or no checkpoint of Ckaad.
    """
    if not path.is_file():
        msg = f"There is no checkpoint {path}. Check the path."
        raise CheckpointError(msg)
    try:
        return Ckaad.load_from_checkpoint(path, map_location="cpu").eval()
    except CheckpointError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"{path} cannot be read as a checkpoint of Ckaad: {first.rstrip('.')}. Pass one that `Ckaad` has saved."
        raise CheckpointError(msg) from error


def make_table(found: Comparison, runtime: str) -> Table:
    """Make the table that the command prints."""
    resized = f"{found.resized} images were resized to the size of the exported file, for both. "
    kind = "raw scores"
    if not found.raw:
        kind = f"normalized scores; {found.cut_off} of them are clamped to 0 or 1 in both and tell nothing"
    table = Table(
        title=f"Checkpoint and exported file ({runtime}) on {len(found.scores[0])} images",
        caption=f"{resized if found.resized else ''}AUROC of {kind}. Latency: median (quartiles) of single images.",
    )
    table.add_column("", no_wrap=True)
    for name in ("checkpoint", "exported"):
        table.add_column(name, justify="right")
    auroc = found.auroc
    table.add_row("image AUROC", *([f"{value:.4f}" for value in auroc] if auroc else ["none"] * 2))
    table.add_row("latency, ms", *[_spread(seconds) for seconds in found.seconds])
    table.add_section()
    for name, value in found.differences.items():
        table.add_row(f"largest difference of {name}", "", f"{value:.1e}")
    for name, count in (("labels", found.flipped_labels), ("pixels of masks", found.flipped_pixels)):
        table.add_row(f"{name} flipped", "", "not among the outputs" if count is None else str(count))
    if found.not_finite:
        table.add_row("images with outputs that are not finite", "", str(found.not_finite))
    return table


def _spread(seconds: Array) -> str:
    low, middle, high = (1000 * value for value in np.percentile(seconds, QUARTILES))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
