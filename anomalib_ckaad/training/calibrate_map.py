"""Calibrates the anomaly map on normal training images, before the validation that thresholds come from."""

import logging
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback
from torch import Tensor, nn

from anomalib_ckaad.features.frozen_features import FrozenFeatures
from anomalib_ckaad.host.pre_processor import prepare
from anomalib_ckaad.scoring.calibration import ResidualCalibration, ResidualMoments
from anomalib_ckaad.scoring.known_directions import StandingOut, emphasis_of, emphasis_weight, largest_ratio
from anomalib_ckaad.scoring.residuals import reconstruction_share
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.labeled_batch import LabeledBatch
from anomalib_ckaad.training.length import may_be_last_epoch, may_be_last_validation, validates
from anomalib_ckaad.training.precision import TrainingPrecision
from anomalib_ckaad.training.training_images import (
    batches_of_known,
    check_can_be_read_again,
    count_normal,
    normal_batches,
)

logger = logging.getLogger(__name__)

COMPARED = 256
"""Largest number of images of either kind that are compared: they give thousands of residuals that stand out."""


class Trained(Protocol):
    """What is calibrated: a Lightning module with these attributes."""

    model: CkaadModel
    pre_processor: nn.Module | None
    frozen_features: FrozenFeatures
    training_precision: TrainingPrecision
    calibrate: bool
    reconstruction_prior: float
    emphasize_known: bool


class CalibrateMap(Callback):
    """Calibrates the map of a ``Ckaad`` wherever its training may end, once for the same weights.

    Does nothing for a model whose ``calibrate`` is False: a trainer may go on with another model.
    """

    def __init__(self) -> None:
        self._calibrated_at = -1
        self._thresholds_are_uncalibrated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notice whether thresholds of an uncalibrated map are there already.

        Raises:
            DataError: If the training images cannot be looked at once more.
        """
        self._calibrated_at = -1
        self._thresholds_are_uncalibrated = False
        if not cast("Trained", pl_module).calibrate:
            return
        # A training that is resumed has thresholds; there may be no validation before it ends.
        is_resumed = bool(trainer.ckpt_path) and validates(trainer)
        self._thresholds_are_uncalibrated = is_resumed and not _calibration_of(pl_module).is_set
        check_can_be_read_again(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calibrate before thresholds are set, where these may be the thresholds that are kept."""
        is_in_fit = trainer.state.fn == "fit" and not trainer.sanity_checking
        if is_in_fit and cast("Trained", pl_module).calibrate:
            is_wanted = may_be_last_validation(trainer)
            if is_wanted:
                self.calibrate(trainer, pl_module)
            self._thresholds_are_uncalibrated = not (is_wanted or _calibration_of(pl_module).is_set)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calibrate at the end of an epoch that may be the last, unless thresholds are of the uncalibrated map."""
        if not cast("Trained", pl_module).calibrate or not may_be_last_epoch(trainer):
            return
        if self._thresholds_are_uncalibrated:
            logger.warning(
                "Training ended after epoch %d, which was not known before its validation. The map stays uncalibrated, "
                "as the thresholds are of the uncalibrated one. End training by max_epochs, max_steps or "
                "EarlyStopping.",
                trainer.current_epoch,
            )
            return
        self.calibrate(trainer, pl_module)

    def calibrate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the residuals of training images, once for these weights."""
        if self._calibrated_at == trainer.global_step:
            return
        self._calibrated_at = trainer.global_step
        module = cast("Trained", pl_module)
        was_training = module.model.auto_encoder.training
        module.model.auto_encoder.eval()  # as it scores
        try:
            with torch.inference_mode(mode=False), torch.no_grad(), trainer.precision_plugin.forward_context():
                self._measure(trainer, module)
        finally:
            module.model.auto_encoder.train(was_training)

    def _measure(self, trainer: pl.Trainer, module: Trained) -> None:
        share = trainer.strategy.broadcast(reconstruction_share(count_normal(trainer), module.reconstruction_prior))
        moments = ResidualMoments(share)
        for features, reconstructions, is_anomalous in _reconstructed(module, normal_batches(trainer)):
            moments.add([f[~is_anomalous] for f in features], [g[~is_anomalous] for g in reconstructions])
        moments.reduce()
        calibration = module.model.calibration
        calibration.set(moments)
        if calibration.is_set:
            logger.info(
                "The map is calibrated on %d normal images; %.2f of the reconstruction is subtracted.",
                moments.images,
                share,
            )
            if module.emphasize_known:
                _emphasize(trainer, module, share)


def _emphasize(trainer: pl.Trainer, module: Trained, share: float) -> None:
    """Let directions count more in which known anomalies stand out, if there are any."""
    known = _standing_out(module, batches_of_known(trainer, COMPARED), anomalous=True)
    if known.images:
        normal = _standing_out(module, normal_batches(trainer, COMPARED), anomalous=False)
        emphasis = emphasis_of(normal, known, emphasis_weight(known.images, share))
        logger.info(
            "Directions in which %d known anomalies stand out count up to %.1f times as much as others.",
            known.images,
            largest_ratio(emphasis),
        )
        module.model.calibration.emphasize(emphasis)


def _standing_out(module: Trained, batches: Iterable[ImageBatch], *, anomalous: bool) -> StandingOut:
    calibration = module.model.calibration
    whitenings = [calibration.get_buffer(f"whitening_{stage}") for stage in range(calibration.stages)]
    found = StandingOut([one.shape[-1] for one in whitenings], like=whitenings[0])
    for features, reconstructions, is_anomalous in _reconstructed(module, batches):
        wanted = is_anomalous == anomalous
        found.add(calibration.whitened([f[wanted] for f in features], [g[wanted] for g in reconstructions]))
    found.reduce()
    return found


def _reconstructed(
    module: Trained, batches: Iterable[ImageBatch]
) -> Iterator[tuple[list[Tensor], list[Tensor], Tensor]]:
    """Features, their reconstructions, and which images are known anomalies."""
    for batch in batches:
        found = LabeledBatch.of(batch, torch.float32)
        images = prepare(module.pre_processor, found.images).to(
            module.model.dtype
        )  # in this order, as training has them
        # Features in bfloat16 differ: to cache both would need more memory.
        paths = [None] * len(found) if module.training_precision.covers(images) else found.paths
        features = module.frozen_features(module.model.backbone, images, paths, "train_data")
        yield features, module.model.auto_encoder(features), found.is_anomalous


def _calibration_of(pl_module: pl.LightningModule) -> ResidualCalibration:
    return cast("Trained", pl_module).model.calibration
