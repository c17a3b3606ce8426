"""How a training of a model begins, how long it takes, and how it ends."""

import logging
from collections.abc import Callable
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from anomalib_ckaad.data.reading.image_files import check_image_files, datamodule_of, warn_of_sizes, warn_of_turned
from anomalib_ckaad.errors import NonFiniteLossError
from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.features.folder import GIB
from anomalib_ckaad.host.kept_epochs import is_watched, may_be_last_epoch, validates
from anomalib_ckaad.network.objective import Objective
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.checkpoints import load_safely
from anomalib_ckaad.training.fast_training import open_folder
from anomalib_ckaad.training.precision import use_bfloat16
from anomalib_ckaad.training.presets import paper_epochs, schedule_of
from anomalib_ckaad.training.random_state import set_random_state
from anomalib_ckaad.training.training_images import check_can_be_read_again
from anomalib_ckaad.weights.loading import load_backbone_weights

logger = logging.getLogger(__name__)

EXACT_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


class FittingMethods:
    """What Lightning calls before, between and after the epochs of a training.

    Comes before ``AnomalibModule`` among the bases.
    """

    model: CkaadModel
    device: torch.device
    current_epoch: int
    pre_processor: Any
    pre_trained: bool
    weights: str | None
    warm_start: str | None
    cache_dir: str | None
    cache_limit: float
    autocast: bool | None
    feature_cache: FeatureCache
    seed: int | None
    parameters: Callable[[], Any]
    load_state_dict: Callable[..., Any]
    calibrate: bool
    calibrate_at_end: Callable[[], None]
    _forget_calibration: Callable[[], None]
    _may_synthesize: bool
    synthetic: bool | None
    objective: Objective
    _use_bfloat16: bool
    _resumed_bfloat16: bool | None
    _compiled: dict[nn.Module, nn.Module]
    _has_weights: bool
    _warm_state: dict[str, Tensor] | None
    _random_state: dict[str, Any] | None
    _usual_steps: int | None
    _counts_steps: bool

    @property
    def trainer(self) -> pl.Trainer:
        """The trainer this model is attached to."""
        return cast("pl.Trainer", super().trainer)  # type: ignore[misc]  # of the base that comes after

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        """Attach to a trainer; one that was given no limit trains as long as the preset says, not Lightning's 1000."""
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]  # a property, which super() cannot set
        strategy = getattr(trainer, "strategy", None)
        if isinstance(strategy, DDPStrategy):  # each loss reaches one of two networks, a fault to plain DDP
            strategy._ddp_kwargs.setdefault("find_unused_parameters", True)  # noqa: SLF001 - no other way to ask for it
        if trainer is None or getattr(trainer, "fit_loop", None) is None:
            return
        if trainer.fit_loop.max_epochs is None and trainer.max_steps == -1:
            trainer.fit_loop.max_epochs = paper_epochs(trainer)
            self._counts_steps = self._usual_steps is not None

    def setup(self, stage: str) -> None:
        """Refuse unusable images before anything is computed, those of the test with them."""
        super().setup(stage)  # type: ignore[misc]
        load_safely(self.trainer)
        turned, scored = [], []
        for subset in ("train_data", "val_data", "test_data"):
            samples = getattr(getattr(datamodule_of(self.trainer), subset, None), "samples", None)
            if samples is not None and (stage == "fit" or subset == "test_data"):
                turned += check_image_files(samples.image_path, may_be_empty=subset != "train_data")
                scored += list(samples.image_path) if subset != "train_data" else []
        warn_of_turned(turned)
        warn_of_sizes(scored, getattr(datamodule_of(self.trainer), "eval_batch_size", 1))

    def on_fit_start(self) -> None:
        """Fetch the backbone's weights unless a checkpoint brought them, and set the random state."""
        if self.trainer.precision not in EXACT_PRECISIONS:
            msg = (
                f"Expected precision {', '.join(EXACT_PRECISIONS)}, got {self.trainer.precision}. "
                "Do pass --trainer.precision bf16-mixed."
            )
            raise ValueError(msg)
        self.feature_cache.clear()
        if not self._has_weights:
            if self._warm_state is not None:
                self.load_state_dict(self._warm_state, strict=False)
                logger.info("Warm start from %s.", self.warm_start)
                self._warm_state = None
            elif self.pre_trained:
                load_backbone_weights(self.model.backbone, self.weights)
            self._has_weights = True
        if self.cache_dir is not None:
            transform = getattr(self.pre_processor, "transform", None)
            folder = open_folder(self.cache_dir, self.cache_limit * GIB, self.model.backbone, transform)
            self.feature_cache.folder = folder
        # A training that is resumed goes on in the precision it was begun in; a new one of loaded weights does not.
        resumed = self._resumed_bfloat16 if self.trainer.ckpt_path else None
        chosen = resumed if self.autocast is None else self.autocast
        wanted = use_bfloat16(chosen, self.trainer.precision, self.device, next(self.parameters()).dtype)
        self._resumed_bfloat16 = None
        self._use_bfloat16 = self.trainer.strategy.broadcast(wanted)  # every process in the first one's precision
        if self.autocast is None and self._use_bfloat16:
            reason = "which is faster here" if resumed is None else "as this training was begun"
            logger.info("Steps on 128x128 pixels and more run in bfloat16, %s; `autocast: false` turns it off.", reason)
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        elif self.seed is not None:
            pl.seed_everything(self.seed, workers=True, verbose=False)

    def on_train_start(self) -> None:
        """Forget an earlier training's calibration, and turn the preset's number of steps into epochs."""
        self._forget_calibration()
        if self.calibrate:
            check_can_be_read_again(self.trainer)
        if self._counts_steps and self._usual_steps is not None:
            epochs, between = schedule_of(self._usual_steps, self.trainer.num_training_batches)
            self.trainer.fit_loop.max_epochs = epochs
            # Nobody has asked for another number, nor for something that is measured after each epoch.
            is_asked_for = self.trainer.check_val_every_n_epoch != 1 or is_watched(self.trainer)
            if validates(self.trainer) and not is_asked_for:  # without, checkpoints are written after every epoch
                self.trainer.check_val_every_n_epoch = between
        logger.info("Training for %s epochs; %s.", self.trainer.max_epochs, self._what_is_learned_from())

    def _what_is_learned_from(self) -> str:
        """Which anomalies training sees, in words."""
        if not self.objective.strategy.needs_anomalies:
            return "this strategy learns from normal images alone"
        if not self._may_synthesize:
            return "batches without known anomalies teach from normal images alone (`synthetic: true` makes anomalies)"
        where = "every batch" if self.synthetic else "batches without known ones"
        return f"anomalies are made of normal images in {where}"

    def on_train_epoch_end(self) -> None:
        """Stop before a checkpoint is written of weights that give no finite error on held-out images."""
        if may_be_last_epoch(self.trainer):
            self.calibrate_at_end()
        error = self.trainer.callback_metrics.get("val_reconstruction")
        if error is not None and not bool(torch.isfinite(error)):
            msg = (
                f"Expected a finite error of the validation images, got {error.item()} after epoch "
                f"{self.current_epoch}. Do lower learning_rate; the last checkpoint is untouched."
            )
            raise NonFiniteLossError(msg)

    def on_fit_end(self) -> None:
        """Give the memory of the features back."""
        self.forget_features()

    def forget_features(self) -> None:
        """Forget the features of a training that has ended, and its compiled modules."""
        self.feature_cache.clear()
        self._compiled.clear()
