"""An evaluator that reports each type of defect, and types with known anomalies apart from types without."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import lightning.pytorch as pl
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric, Evaluator

from anomalib_ckaad.data.reading.anomaly_types import UNTYPED, types_of
from anomalib_ckaad.distributed import gather
from anomalib_ckaad.host.trainer import datamodule_of
from anomalib_ckaad.metrics.evaluator import default_evaluator
from anomalib_ckaad.metrics.per_type import ALL_TYPES, Scored, score_types

logger = logging.getLogger(__name__)

REPORTED = ("image_AUROC", "image_F1Score", "pixel_AUPRO")


def seen_and_unseen(rows: Mapping[str, Mapping[str, float]], seen: Iterable[str]) -> dict[str, float]:
    """Metrics of each type, and their means over types with known anomalies and over the others.

    Args:
        rows: Metrics by type, as ``score_types`` returns them.
        seen: Types with a known anomaly.

    Returns:
        ``type_NAME_METRIC`` for each type, ``seen_METRIC`` and ``unseen_METRIC``. A mean over no type is left out. Both
        means are left out if the type of a known anomaly is not known.

    Example:
        >>> rows = {"crack": {"image_AUROC": 0.9}, "hole": {"image_AUROC": 0.7}, "all": {"image_AUROC": 0.8}}
        >>> seen_and_unseen(rows, ["crack"])["unseen_image_AUROC"]
        0.7
    """
    seen = set(seen)
    types = {name: row for name, row in rows.items() if name != ALL_TYPES}
    values = {
        f"type_{name}_{metric}": row[metric] for name, row in types.items() for metric in REPORTED if metric in row
    }
    if UNTYPED in seen:
        return values
    for group, names in (("seen", types.keys() & seen), ("unseen", types.keys() - seen)):
        for metric in REPORTED:
            of_group = [types[name][metric] for name in sorted(names) if metric in types[name]]
            if of_group:
                values[f"{group}_{metric}"] = mean(of_group)
    return values


class SeenUnseenEvaluator(Evaluator):
    """The default metrics, and image AUROC, F1 and AUPRO for each type of defect, for seen and for unseen types.

    A type is seen if training has a known anomaly of it (``KnownAnomalies``). Each type is compared with all normal
    test images, on raw scores; F1 uses the validation threshold. Scores and maps of all test images are kept in memory
    until the test ends. Works with Ckaad only, as other models keep no raw scores.

    Args:
        val_metrics: As in anomalib's evaluator.
        test_metrics: As in anomalib's evaluator. Default None: those of ``default_evaluator``.
        compute_on_cpu: As in anomalib's evaluator.
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,  # noqa: FBT001, FBT002 - anomalib's signature
    ) -> None:
        own: Any = list(default_evaluator().test_metrics)
        super().__init__(val_metrics, own if test_metrics is None else test_metrics, compute_on_cpu)
        self._scored: list[Scored] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the images of an earlier test."""
        del trainer, pl_module
        self._scored = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's raw scores and maps."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._scored.append(Scored.collect([batch]))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics of all types."""
        super().on_test_epoch_end(trainer, pl_module)
        parts, self._scored = self._scored, []
        scored = Scored.join([part for process in gather(parts) for part in process])
        if scored.labels.all() or not scored.labels.any():
            logger.warning("No metrics by type: the test set has only normal or only anomalous images.")
            return
        datamodule = datamodule_of(trainer)
        samples = getattr(getattr(datamodule, "test_data", None), "samples", None)
        if samples is not None:
            scored = scored.with_types(dict(zip(samples.image_path, types_of(samples), strict=True)))
        seen = getattr(datamodule, "known_types", {})
        for name, value in seen_and_unseen(score_types(scored), seen).items():
            pl_module.log(name, value, rank_zero_only=True)
