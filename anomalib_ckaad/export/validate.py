"""Compares the outputs of a model with those of a file that was exported from it, on real images."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from anomalib.data.utils import read_image
from torch import Tensor
from torch.nn import functional

from anomalib_ckaad.export.runtimes import OUTPUTS, Array, Exported
from anomalib_ckaad.export.validation_images import LabeledPath
from anomalib_ckaad.metrics import auroc


class ModelWithRawOutputs(Protocol):
    """A model whose ``raw_outputs`` adds raw scores and maps to what it returns, as ``ExportMethods`` does."""

    def __call__(self, images: Tensor) -> Any:  # noqa: ANN401 - a named tuple of tensors
        """Outputs by name for images (N, 3, H, W) in [0, 1]."""

    def raw_outputs(self) -> AbstractContextManager[None]:
        """Within this context, the outputs have ``raw_pred_score`` and ``raw_anomaly_map``."""


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of checkpoint and exported file over N images.

    Attributes:
        differences: Largest difference of each output, such as ``pred_score``; infinite if shapes differ or only one of
            both is NaN.
        flipped_labels: Number of images whose labels differ; None if one of both has no labels.
        flipped_pixels: Number of pixels whose masks differ; None if one of both has no masks.
        scores: Image scores of checkpoint and exported file, each (N,); raw ones if the exported file has them.
        raw: Whether the scores are raw. Normalized scores are clamped to [0, 1], which creates ties.
        labels: Whether each image is anomalous (N,); None unless all images are labeled.
        seconds: Seconds per image of checkpoint and exported file, each (N,).
        resized: Number of images that were resized for both, because the exported file takes one size only.
        not_finite: Number of images with a score or map that is not finite, in one of both or in both.
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
        """Whether everything is finite, no label differs, and no score or map differs by more than ``tolerance``."""
        close = all(value <= tolerance for value in self.differences.values())
        return close and not self.flipped_labels and not self.not_finite

    @property
    def cut_off(self) -> int:
        """Number of images whose scores tell nothing, because both were clamped to 0 or 1."""
        first, second = self.scores
        return 0 if self.raw else int((np.isin(first, (0, 1)) & (first == second)).sum())

    @property
    def auroc(self) -> tuple[float, float] | None:
        """Image AUROC of checkpoint and exported file; None without normal, anomalous, and finite scores."""
        if self.labels is None or len(set(self.labels.tolist())) < 2:  # noqa: PLR2004 - both kinds
            return None
        if not all(np.isfinite(scores).all() for scores in self.scores):
            return None
        labels = torch.from_numpy(self.labels)
        first, second = (auroc(torch.from_numpy(scores), labels) for scores in self.scores)
        return first, second


def compare(model: ModelWithRawOutputs, exported: Exported, images: Sequence[LabeledPath]) -> Comparison:
    """Run both on every image file, one at a time, as on a production line.

    If the exported file takes one size only, both get images of that size.

    Args:
        model: The checkpoint's model, in evaluation mode, on the CPU.
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
        if index == 0:  # a runtime's first call prepares it, which is not part of the latency
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


def _outputs(model: ModelWithRawOutputs, images: Tensor) -> dict[str, Array]:
    """Outputs of a checkpoint's model by name, including the raw ones."""
    with torch.inference_mode(), model.raw_outputs():
        return {name: value.numpy() for name, value in model(images)._asdict().items() if value is not None}


def _fit(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def _difference(expected: Array, got: Array) -> float:
    """Largest difference; infinite if shapes differ or a value is NaN in only one of both."""
    if expected.shape != got.shape or (np.isnan(expected) != np.isnan(got)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(expected.astype(float) - got.astype(float))).max())


def _flips(expected: Array, got: Array) -> int:
    """Number of values that differ; all of them if shapes differ."""
    return int((expected != got).sum()) if expected.shape == got.shape else expected.size
