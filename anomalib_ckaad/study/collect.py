"""Collect what a report needs from a test, batch by batch, for any model of anomalib."""

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_accuracy, binary_f1_score

from anomalib_ckaad.metrics.per_type import ALL_TYPES
from anomalib_ckaad.metrics.pixel_counts import PixelCounts
from anomalib_ckaad.metrics.streaming import PixelMetric
from anomalib_ckaad.metrics.summary import MEAN_OF, mean_of_seven, ranking_scores

THUMBNAIL = 64
"""Height and width in pixels of the maps that are kept for the gallery."""


class Collector(Callback):
    """Keeps scores, small maps and pixel counts by type of defect; memory grows by 20 KiB per image.

    Callbacks of the trainer come before those of the model, so scores are not normalized yet.

    Args:
        types: Type of defect of each test image, by path.
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        self.types = dict(types)
        self.paths: list[str] = []
        self.mask_paths: list[str] = []
        self.scores: list[float] = []
        self.labels: list[bool] = []
        self.maps: list[Tensor] = []
        self.seconds: list[float] = []
        self._pixels: dict[str, PixelMetric] = {}
        self._normal = PixelMetric()
        self._has_masks = True
        self._begin = 0.0

    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        *args: Any,  # noqa: ANN401
    ) -> None:
        """Start the clock."""
        del trainer, pl_module, args
        self._begin = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
    ) -> None:
        """Keep scores, labels and maps of a batch."""
        del trainer, pl_module, batch, args
        predicted: ImageBatch = outputs
        scores = torch.as_tensor(predicted.pred_score).detach().float().cpu().flatten()
        self.seconds += [(time.perf_counter() - self._begin) / len(scores)] * len(scores)
        labels = torch.as_tensor(predicted.gt_label).bool().cpu().flatten()
        paths = list(predicted.image_path or [])
        self.paths += paths
        self.scores += scores.tolist()
        self.labels += labels.tolist()
        if predicted.anomaly_map is None:
            self._has_masks = False
            return
        maps = torch.as_tensor(predicted.anomaly_map).detach().float().cpu()
        maps = maps.reshape(len(scores), 1, *maps.shape[-2:])
        self.maps += list(functional.adaptive_avg_pool2d(maps, THUMBNAIL)[:, 0].half())
        if predicted.gt_mask is None:
            self._has_masks = False
        if self._has_masks:
            masks = torch.as_tensor(predicted.gt_mask).cpu()
            masks = masks.reshape(len(scores), 1, *masks.shape[-2:])
            if masks.shape != maps.shape:
                maps = functional.interpolate(maps, masks.shape[-2:], mode="bilinear")
            self._count(paths, labels, maps, masks)

    def _count(self, paths: list[str], labels: Tensor, maps: Tensor, masks: Tensor) -> None:
        types = [self.types.get(path, ALL_TYPES) if bad else None for path, bad in zip(paths, labels, strict=True)]
        for name in {name for name in types if name is not None}:
            chosen = torch.tensor([one == name for one in types])
            self._pixels.setdefault(name, PixelMetric()).update(maps[chosen], masks[chosen])
        if not labels.all():
            self._normal.update(maps[~labels], masks[~labels])

    def curves(self) -> dict[str, PixelCounts]:
        """Counts of pixels of each type and of all types, with those of all normal images; empty without masks."""
        if not self._has_masks or not self._pixels:
            return {}
        return {
            **{name: _together([self._normal, one]) for name, one in sorted(self._pixels.items())},
            ALL_TYPES: _together([self._normal, *self._pixels.values()]),
        }

    def rows(self, threshold: float) -> dict[str, dict[str, float]]:
        """Metrics of each type of defect against all normal images, and of all types together.

        Args:
            threshold: Threshold of raw image scores, from validation images; NaN if there is none.

        Raises:
            DataError: If all test images are normal or all anomalous, or a score is not finite.
        """
        scores, labels = torch.tensor(self.scores), torch.tensor(self.labels)
        types = [self.types.get(path, ALL_TYPES) for path in self.paths]
        curves = self.curves()
        found: dict[str, dict[str, float]] = {}
        names = {name for name, bad in zip(types, self.labels, strict=True) if bad} - {ALL_TYPES}
        for name in [*sorted(names), ALL_TYPES]:
            chosen = torch.tensor([name in {one, ALL_TYPES} for one in types]) | ~labels
            row = {"images": float(labels[chosen].sum())}
            ranking = ranking_scores(scores[chosen], labels[chosen])
            row |= {f"image_{key}": value for key, value in ranking.items()}
            if not math.isnan(threshold):
                row |= _at_threshold(scores[chosen] > threshold, labels[chosen])
            if name in curves:
                row |= _pixel_row(curves[name])
            if set(MEAN_OF) <= row.keys():
                row["mAD"] = mean_of_seven(row)
            found[name] = row
        return found


def _together(parts: list[PixelMetric]) -> PixelCounts:
    return PixelCounts.of(
        torch.stack([part.normal for part in parts]).sum(0),
        torch.stack([part.anomalous for part in parts]).sum(0),
        torch.stack([part.overlap for part in parts]).sum(0),
        sum(int(part.regions) for part in parts),
        min(float(part.low) for part in parts),
        max(float(part.high) for part in parts),
    )


def _pixel_row(counts: PixelCounts) -> dict[str, float]:
    if not counts.anomalous.any():
        return {}
    return {
        "pixel_AUROC": counts.auroc()[0],
        "pixel_AP": counts.average_precision()[0],
        "pixel_F1Max": counts.best_f1()[0],
        "pixel_AUPRO": counts.aupro()[0],
        **{name: value for name, (value, _) in counts.threshold_range().items()},
    }


def _at_threshold(called: Tensor, labels: Tensor) -> dict[str, float]:
    predicted, target = called.int(), labels.int()
    return {
        "image_F1Score": float(binary_f1_score(predicted, target)),
        "image_Accuracy": float(binary_accuracy(predicted, target)),
    }
