"""``anomalib-ckaad validate``: does an exported file give what its checkpoint gives, on real images?"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from anomalib.data.utils import read_image
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from anomalib_ckaad.errors import CheckpointError
from anomalib_ckaad.export.runtimes import OUTPUTS, Array, Exported, Precision, load_exported
from anomalib_ckaad.export.test_images import NORMAL, LabeledPath, find_test_images
from anomalib_ckaad.lightning_model import Ckaad

DIFFERS = 1
QUARTILES = (25, 50, 75)


@dataclass(frozen=True)
class Comparison:
    """What was found; differences of outputs are the largest over all images.

    Args:
        differences: By output, such as ``pred_score``; NaN where one has it as not a number and the other does not.
        flipped_labels: Number of images whose label differs; None if one of both gives none.
        flipped_pixels: Number of pixels whose mask differs; None if one of both gives none.
        scores: Image scores of checkpoint and exported file, each (N,); raw ones if the exported file has them.
        raw: Whether the scores are raw: normalized ones are cut off at 0 and 1, where images tie.
        labels: Whether each image is anomalous, (N,); None unless all images are labeled.
        seconds: Time an image of checkpoint and exported file, each (N,).
        resized: Number of images that were resized for both, as the exported file takes one size only.
        not_finite: Number of images for which one of both gives a score or a map that is not finite.
    """

    differences: Mapping[str, float]
    flipped_labels: int | None
    flipped_pixels: int | None
    scores: tuple[Array, Array]
    raw: bool
    labels: Array | None
    seconds: tuple[Array, Array]
    resized: int
    not_finite: int = 0

    def within(self, tolerance: float) -> bool:
        """Whether all is finite, no score or map differs by more, and no label at all."""
        close = all(value <= tolerance for value in self.differences.values())
        return close and not self.flipped_labels and not self.not_finite

    @property
    def cut_off(self) -> int:
        """Number of images whose scores say nothing, as the post-processor cut both off at 0 or 1."""
        first, second = self.scores
        return 0 if self.raw else int((np.isin(first, (0, 1)) & (first == second)).sum())

    @property
    def auroc(self) -> tuple[float, float] | None:
        """Image AUROC of checkpoint and exported file; None without images of both kinds, or finite scores."""
        if self.labels is None or len(set(self.labels.tolist())) < 2:  # noqa: PLR2004
            return None
        if not all(np.isfinite(scores).all() for scores in self.scores):
            return None
        labels = torch.from_numpy(self.labels).long()
        first, second = (float(_auroc(torch.from_numpy(scores), labels)) for scores in self.scores)
        return first, second


def run_validate(
    checkpoint: Path, exported: Path, data: Path, tolerance: float = 1e-4, precision: Precision = "f32"
) -> int:
    """Compare, print a table, and return the exit status: 0 where both agree within ``tolerance``.

    Raises:
        ValueError: If a file or the data cannot be used.
        OSError: If one is missing, or a pickle that nobody said to trust.
        ModuleNotFoundError: If the runtime is not installed.
    """
    images = find_test_images(data)
    loaded = load_exported(exported, precision)
    found = compare(load_checkpoint(checkpoint), loaded, images)
    agree = found.within(tolerance)
    console = Console()
    console.print(make_table(found, loaded.runtime))
    if found.auroc is None:
        console.print(
            f"No AUROC: images below folders named {' or '.join(sorted(NORMAL))} are normal, those below others are "
            "anomalous, and both kinds and finite scores are needed.",
            soft_wrap=True,
        )
    verdict = "agree" if agree else "differ"
    console.print(f"Checkpoint and exported file {verdict}, at a tolerance of {tolerance:g}.", soft_wrap=True)
    return 0 if agree else DIFFERS


def load_checkpoint(path: Path) -> Ckaad:
    """Load a fitted model on the CPU, for inference.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no Ckaad.
    """
    if not path.is_file():
        msg = f"Expected a checkpoint, got {str(path)!r}, which is no file. Do check the path."
        raise FileNotFoundError(msg)
    try:
        return Ckaad.load_from_checkpoint(path, map_location="cpu").eval()
    except CheckpointError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"Expected a checkpoint of Ckaad, got {str(path)!r}, which cannot be read as one ({first}). Do check it."
        raise ValueError(msg) from error


def compare(model: Ckaad, exported: Exported, images: Sequence[LabeledPath]) -> Comparison:
    """Run both on every image as it lies on disk, one by one, as a line does.

    For a file of one size, both get images of that size.

    Args:
        model: The checkpoint's model, in evaluation mode.
        exported: The exported file.
        images: Paths and labels, at least one.
    """
    differences: dict[str, float] = {}
    flips: dict[str, int | None] = {"pred_label": 0, "pred_mask": 0}
    scores: tuple[list[float], list[float]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    resized, not_finite, raw = 0, 0, True
    for index, (path, _) in enumerate(images):
        pixels = torch.as_tensor(read_image(path, as_tensor=True))[None]
        fitting = _fit(pixels, exported.size)
        resized += fitting.shape != pixels.shape
        given = np.ascontiguousarray(fitting.numpy())
        if index == 0:  # what runtimes prepare at their first call is no part of the latency
            _outputs(model, fitting)
            exported.run(given)
        start = time.perf_counter()
        expected = _outputs(model, fitting)
        between = time.perf_counter()
        got = exported.run(given)
        seconds[0].append(between - start)
        seconds[1].append(time.perf_counter() - between)
        for name in (*OUTPUTS, "raw_pred_score", "raw_anomaly_map"):
            if name in expected and name in got:
                differences[name] = float(np.fmax(differences.get(name, 0.0), _difference(expected[name], got[name])))
        for name, flipped in flips.items():
            both = name in expected and name in got and flipped is not None
            flips[name] = flipped + _flips(expected[name], got[name]) if both and flipped is not None else None
        shared = [side[name] for side in (expected, got) for name in OUTPUTS]
        not_finite += not all(np.isfinite(values).all() for values in shared)
        raw = raw and "raw_pred_score" in got
        name = "raw_pred_score" if raw else "pred_score"
        for kept, outputs in zip(scores, (expected, got), strict=True):
            kept.append(float(outputs[name].reshape(())))
    labels = [label for _, label in images]
    return Comparison(
        differences,
        flips["pred_label"],
        flips["pred_mask"],
        (np.array(scores[0]), np.array(scores[1])),
        raw,
        None if None in labels else np.array(labels, dtype=bool),
        (np.array(seconds[0]), np.array(seconds[1])),
        resized,
        not_finite,
    )


def make_table(found: Comparison, runtime: str) -> Table:
    """Make the table that ``validate`` prints."""
    resized = f"{found.resized} images were resized to the size of the exported file, for both. "
    kind = "raw scores"
    if not found.raw:
        kind = f"normalized scores, of which {found.cut_off} are cut off at 0 or 1 and say nothing"
    table = Table(
        title=f"Checkpoint and exported file ({runtime}) on {len(found.scores[0])} images",
        caption=f"{resized if found.resized else ''}AUROC of {kind}. Latency: median (quartiles), one by one.",
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


def _outputs(model: Ckaad, images: torch.Tensor) -> dict[str, Array]:
    """Outputs of a checkpoint's model by name, the raw ones among them."""
    with torch.inference_mode(), model.raw_outputs():
        return {name: value.numpy() for name, value in model(images)._asdict().items() if value is not None}


def _fit(images: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    if size is None or images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def _difference(expected: Array, got: Array) -> float:
    """The largest difference; infinite where shapes differ or one of both is not a number."""
    if expected.shape != got.shape or (np.isnan(expected) != np.isnan(got)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(expected.astype(float) - got.astype(float))).max())


def _flips(expected: Array, got: Array) -> int:
    """How many values differ; all where shapes do."""
    return int((expected != got).sum()) if expected.shape == got.shape else expected.size


def _auroc(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # torchmetrics puts scores outside of [0, 1] through a sigmoid, which makes ties: ranks keep their order exactly.
    return binary_auroc(torch.unique(scores, return_inverse=True)[1].double() / len(scores), labels)


def _spread(seconds: Array) -> str:
    low, middle, high = (1000 * value for value in np.percentile(seconds, QUARTILES))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"
