"""A training step: which images it takes, their features, and the alternating steps of both optimizers."""

from collections.abc import Callable
from typing import Any, cast

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from torch import Tensor, nn

from anomalib_ckaad.data.reading.image_files import datamodule_of
from anomalib_ckaad.errors import NonFiniteLossError
from anomalib_ckaad.features.cache import FeatureCache, is_fixed
from anomalib_ckaad.host.pre_processor import find_normalize, in_unit_range
from anomalib_ckaad.network.objective import Objective, alternating_step
from anomalib_ckaad.synthesis import AnomalyMaker
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.fast_training import bfloat16_if, make_adam, precision_of
from anomalib_ckaad.training.labeled_batches import images_and_labels, paths_of
from anomalib_ckaad.training.precision import is_worthwhile
from anomalib_ckaad.training.training_batch import normal_then_anomalous

SHOWN_LOSSES = ("reconstruction", "generator", "discriminator")


class TrainingMethods:
    """Optimizers and steps of a model that reconstructs features.

    Comes before ``AnomalibModule`` among the bases.
    """

    model: CkaadModel
    discriminator: nn.Module | None
    objective: Objective
    trainer: pl.Trainer
    _trainer: pl.Trainer | None
    current_epoch: int
    dtype: torch.dtype
    pre_processor: Any
    learning_rate: float
    discriminator_learning_rate: float
    synthetic: bool | None
    _usually_synthetic: bool
    synthesis: AnomalyMaker
    autocast: bool | None
    feature_cache: FeatureCache
    log: Callable[..., None]
    optimizers: Callable[[], Any]
    manual_backward: Callable[[Tensor], None]
    _use_bfloat16: bool
    _compiles: bool
    _compiled: dict[nn.Module, nn.Module]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the auto-encoder, and for the discriminator if there is one, each with betas (0.5, 0.999)."""
        optimizers = [make_adam(self.model.auto_encoder.parameters(), self.learning_rate)]
        if self.discriminator is not None:
            optimizers.append(make_adam(self.discriminator.parameters(), self.discriminator_learning_rate))
        return list(optimizers)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """One alternating step, equation (13), on the batch's normal images and its known or synthetic anomalies."""
        del batch_idx
        images, is_anomalous, names = self._training_images(batch)
        optimizers: Any = self.optimizers()  # Lightning's wrappers, which count steps
        own, other = optimizers if isinstance(optimizers, list) else (optimizers, None)
        discriminator = self.discriminator if is_anomalous.any() else None
        try:
            with bfloat16_if(self._use_bfloat16 and is_worthwhile(self.autocast, images), images.device.type):
                losses = alternating_step(
                    self._features(images, names, "train_data"),
                    is_anomalous,
                    auto_encoder=self._fast(self.model.auto_encoder),
                    discriminator=discriminator and self._fast(discriminator),
                    objective=self.objective,
                    auto_encoder_optimizer=own,
                    discriminator_optimizer=other,
                    backward=self.manual_backward,
                )
        except NonFiniteLossError as error:
            step = self.trainer.fit_loop.total_batch_idx
            msg = f"Step {step}, epoch {self.current_epoch}: {error}"
            raise NonFiniteLossError(msg) from error
        for name, value in losses.items():
            self.log(name, value, on_step=True, on_epoch=True, prog_bar=name in SHOWN_LOSSES, batch_size=len(images))
        return losses

    def _training_images(self, batch: ImageBatch) -> tuple[Tensor, Tensor, list[str | None]]:
        """Normal images, then anomalous ones; which are which as booleans (N,); their paths, None of synthetic ones."""
        images, labels = images_and_labels(batch, self.dtype)
        names = paths_of(batch)
        if not self.objective.strategy.needs_anomalies:
            names = [name for name, is_known in zip(names, labels, strict=True) if not is_known]
            images, labels = images[~labels], labels[~labels]
        make = self._synthesize if self._may_synthesize else None
        names = [names[index] for index in torch.argsort(labels.long(), stable=True).tolist()]
        images, is_anomalous = normal_then_anomalous(images, labels, make, always=bool(self.synthetic))
        return images, is_anomalous, names + [None] * (len(images) - len(names))

    def _features(self, images: Tensor, names: list[str | None], subset: str) -> list[Tensor]:
        """The backbone's features, from the cache where images come again as they were."""
        data = getattr(datamodule_of(self.trainer), subset, None)
        unknown = object()  # of data that do not say what they do to images
        transforms = (getattr(data, "augmentations", unknown), getattr(self.pre_processor, "transform", None))
        in_fit = self.trainer.state.fn == "fit"  # elsewhere each image comes once, and weights may change between
        if not in_fit or images.device.type != "cpu" or data is None or not all(map(is_fixed, transforms)):
            names = [None] * len(images)
        return self.feature_cache.get(
            images, names, self.model.backbone, f"{precision_of(images)} {tuple(images.shape[1:])}"
        )

    def _fast(self, module: nn.Module) -> nn.Module:
        """The module, compiled where that is asked for; the compiled one is kept where no checkpoint sees it."""
        if self._compiles and module not in self._compiled:
            self._compiled[module] = cast("nn.Module", torch.compile(module))
        return self._compiled.get(module, module)

    @property
    def _may_synthesize(self) -> bool:
        """Whether batches without known anomalies get synthetic ones."""
        wanted = self._usually_synthetic if self.synthetic is None else self.synthetic
        if self.synthetic is None and self._trainer is not None:
            # KnownAnomalies says what is known, if only nothing; ordinary data say nothing about it.
            wanted &= getattr(datamodule_of(self.trainer), "known_types", None) != {}
        return wanted and self.objective.strategy.needs_anomalies

    def _synthesize(self, images: Tensor) -> Tensor:
        return in_unit_range(self.synthesis, images, find_normalize(self.pre_processor))
