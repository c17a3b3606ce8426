"""When a model's map is calibrated in a training, and by which images."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from torch import Tensor

from anomalib_ckaad.calibration import ResidualMoments
from anomalib_ckaad.data.batches_again import batches_of_known, count_normal, may_be_last_epoch, normal_batches
from anomalib_ckaad.data.labeled_batches import images_and_labels, paths_of
from anomalib_ckaad.known_directions import StandingOut, emphasis_of, emphasis_weight
from anomalib_ckaad.objectives import Objective
from anomalib_ckaad.precision import is_worthwhile
from anomalib_ckaad.preprocessing import prepare
from anomalib_ckaad.residuals import reconstruction_share
from anomalib_ckaad.torch_model import CkaadModel

logger = logging.getLogger(__name__)

COMPARED = 256
"""Normal images, and known anomalies, that are compared at most: thousands of residuals that stand out."""


class CalibrationMethods:
    """Calibration of a model before its last validation, or where training ends.

    Comes before ``AnomalibModule`` among the bases.
    """

    model: CkaadModel
    trainer: pl.Trainer
    dtype: torch.dtype
    objective: Objective
    pre_processor: Any
    calibrate: bool
    emphasize_known: bool
    reconstruction_prior: float
    autocast: bool | None
    _use_bfloat16: bool
    _features: Callable[..., list[Tensor]]
    _calibrated_at: int = -1

    def on_validation_start(self) -> None:
        """Calibrate before thresholds are set of scores, where these may be the thresholds that are kept."""
        if self.trainer.state.fn == "fit" and may_be_last_epoch(
            self.trainer, self.trainer.check_val_every_n_epoch or 1
        ):
            self.calibrate_map()

    def _forget_calibration(self) -> None:
        self.model.calibration.clear()
        self._calibrated_at = -1

    def calibrate_map(self) -> None:
        """Measure the residuals of training images, once for these weights; called where a training may end."""
        if not self.calibrate or self._calibrated_at == self.trainer.global_step:
            return
        self._calibrated_at = self.trainer.global_step
        calibration = self.model.calibration
        was_training = self.model.auto_encoder.training
        self.model.auto_encoder.eval()  # as it scores
        with torch.inference_mode(mode=False), torch.no_grad(), self.trainer.precision_plugin.forward_context():
            share = self.trainer.strategy.broadcast(
                reconstruction_share(count_normal(self.trainer), self.reconstruction_prior)
            )
            moments = ResidualMoments(share)
            for features, reconstructions, labels in self._reconstructed(normal_batches(self.trainer)):
                moments.add([f[~labels] for f in features], [g[~labels] for g in reconstructions])
            moments.reduce()
            calibration.set(moments)
            if calibration.is_set:
                logger.info(
                    "Map calibrated on %d normal images; %.2f of reconstructions is taken away.", moments.images, share
                )
            if calibration.is_set and self.emphasize_known and self.objective.strategy.is_told:
                self._emphasize(share)
        self.model.auto_encoder.train(was_training)

    def _emphasize(self, share: float) -> None:
        """Let directions count more in which known anomalies stand out, if there are any."""
        known = self._standing_out(batches_of_known(self.trainer, COMPARED), anomalous=True)
        if known.images:
            normal = self._standing_out(normal_batches(self.trainer, COMPARED), anomalous=False)
            weight = emphasis_weight(known.images, share)
            logger.info("Directions of %d known anomalies weigh %.3f beside all else.", known.images, weight)
            self.model.calibration.emphasize(emphasis_of(normal, known, weight))

    def _standing_out(self, batches: Iterable[ImageBatch], *, anomalous: bool) -> StandingOut:
        calibration = self.model.calibration
        whitenings = [calibration.get_buffer(f"whitening_{stage}") for stage in range(calibration.stages)]
        found = StandingOut([one.shape[-1] for one in whitenings], like=whitenings[0])
        for features, reconstructions, labels in self._reconstructed(batches):
            wanted = labels == anomalous
            found.add(calibration.whitened([f[wanted] for f in features], [g[wanted] for g in reconstructions]))
        found.reduce()
        return found

    def _reconstructed(self, batches: Iterable[ImageBatch]) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor]]:
        """Features, their reconstructions, and which are of known anomalies."""
        for batch in batches:
            images, labels = images_and_labels(batch, torch.float32)
            images = prepare(self.pre_processor, images).to(self.dtype)  # in this order, as training has them
            # Those of a training in bfloat16 are others: kept besides, they would take twice as much again.
            other = self._use_bfloat16 and is_worthwhile(self.autocast, images)
            names = [None if other else name for name in paths_of(batch)]
            features = self._features(images, names, "train_data")
            yield features, self.model.auto_encoder(features), labels
