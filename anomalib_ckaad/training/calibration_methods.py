"""When a model's map is calibrated in a training, and by which images."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from torch import Tensor

from anomalib_ckaad.host.kept_epochs import may_be_last_validation, validates
from anomalib_ckaad.host.pre_processor import prepare
from anomalib_ckaad.network.objective import Objective
from anomalib_ckaad.scoring.calibration import ResidualMoments
from anomalib_ckaad.scoring.known_directions import StandingOut, emphasis_of, emphasis_weight, largest_ratio
from anomalib_ckaad.scoring.residuals import reconstruction_share
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.labeled_batches import images_and_labels, paths_of
from anomalib_ckaad.training.precision import is_worthwhile
from anomalib_ckaad.training.training_images import batches_of_known, count_normal, normal_batches

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
    _has_thresholds_without: bool = False

    def on_validation_start(self) -> None:
        """Calibrate before thresholds are set of scores, where these may be the thresholds that are kept."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            is_wanted = may_be_last_validation(self.trainer)
            if is_wanted:
                self.calibrate_map()
            self._has_thresholds_without = not (is_wanted or self.model.calibration.is_set)

    def calibrate_at_end(self) -> None:
        """Calibrate at the end of an epoch that may be the last, unless thresholds are of the uncalibrated map."""
        if self.calibrate and self._has_thresholds_without:
            logger.warning(
                "Expected the last epoch to be known before its validation, got an end of training after epoch %d. "
                "Thresholds are of the map as it is, which stays uncalibrated. Do end training by max_epochs, "
                "max_steps or EarlyStopping.",
                self.trainer.current_epoch,
            )
            return
        self.calibrate_map()

    def _forget_calibration(self) -> None:
        # A training that is resumed has thresholds; there may be no validation before it ends.
        is_resumed = bool(self.trainer.ckpt_path) and validates(self.trainer)
        self._has_thresholds_without = is_resumed and not self.model.calibration.is_set
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
            emphasis = emphasis_of(normal, known, weight)
            logger.info(
                "Directions in which %d known anomalies stand out weigh up to %.1f times as much as others.",
                known.images,
                largest_ratio(emphasis),
            )
            self.model.calibration.emphasize(emphasis)

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
