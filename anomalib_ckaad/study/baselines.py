"""Baselines that learn from known anomalies, on the same frozen features: DevNet and Deep SAD."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from torch import Tensor, nn
from torch.nn import functional

from anomalib_ckaad.errors import ConfigurationError, DataError
from anomalib_ckaad.host.pre_processor import make_pre_processor
from anomalib_ckaad.network.backbone import FrozenBackbone, describe
from anomalib_ckaad.weights.loading import check_weights, load_backbone_weights, normalization

ObjectiveName = Literal["devnet", "deep_sad"]
MARGIN = 5.0
"""a of DevNet's deviation loss: standard deviations by which known anomalies should exceed the reference."""
REFERENCES = 5000
"""Number of normally distributed numbers from which DevNet computes its reference score and deviation."""
TOP_SHARE = 0.1
"""Share of the map whose largest values are averaged to the image score (DevNet's multiple-instance learning)."""


def deviation_loss(scores: Tensor, is_anomalous: Tensor, references: Tensor, margin: float = MARGIN) -> Tensor:
    """DevNet (arXiv 2108.00462), equations (3) and (4): (1 - y) |dev| + y max(0, a - dev).

    Args:
        scores: Image scores (N,).
        is_anomalous: Which images are known anomalies (N,).
        references: Scores drawn from a standard normal distribution; their mean and standard deviation are those of
            normal images.
        margin: a.

    Returns:
        Mean over the images.

    Example:
        >>> deviation_loss(torch.tensor([1.0, 3.0]), torch.tensor([False, True]), torch.tensor([-1.0, 0.0, 1.0]))
        tensor(1.5000)
    """
    deviation = (scores - references.mean()) / references.std()
    anomalous = is_anomalous.to(deviation)
    return ((1 - anomalous) * deviation.abs() + anomalous * (margin - deviation).clamp(min=0)).mean()


def deep_sad_loss(distances: Tensor, is_anomalous: Tensor, weight: float = 1.0, epsilon: float = 1e-6) -> Tensor:
    """Deep SAD (arXiv 1906.02694), equation (7): distances to the center, inverted for known anomalies.

    Args:
        distances: Squared distances (N,), at least 0.
        is_anomalous: Which images are known anomalies (N,).
        weight: eta, the weight of the labeled images; default 1, as in the paper's experiments.
        epsilon: Added before the division.

    Returns:
        Mean over the images; the optimizer adds the weight decay.

    Example:
        >>> deep_sad_loss(torch.tensor([1.0, 2.0]), torch.tensor([False, True]))
        tensor(0.7500)
    """
    labeled = weight / (distances + epsilon)
    return torch.where(is_anomalous, labeled, distances).mean()


def away_from_zero(center: Tensor, least: float = 0.1) -> Tensor:
    """Move the components of Deep SAD's center at least ``least`` away from 0, as its authors' code does.

    Otherwise, weights of 0 would reach the center.

    Example:
        >>> away_from_zero(torch.tensor([0.0, -0.01, 0.5]))
        tensor([ 0.1000, -0.1000,  0.5000])
    """
    signs = torch.where(center < 0, -1.0, 1.0).to(center)
    return torch.where(center.abs() < least, least * signs, center)


class HeadModel(nn.Module):
    """A small head on the features of a frozen backbone that gives an anomaly map.

    The features of all stages are normalized to a mean square of 1 over their channels, resized to the largest stage
    and concatenated. DevNet's head scores every position with a 1x1 convolution. Deep SAD's head maps the features with
    two 1x1 convolutions without bias to a space in which the squared distance to a fixed center is the anomaly map. The
    image score is the mean of the largest tenth of the map.

    Args:
        objective: ``devnet`` or ``deep_sad``.
        backbone: See ``Ckaad``.
        layers: See ``Ckaad``.
        width: Number of channels of Deep SAD's space.
    """

    def __init__(self, objective: ObjectiveName, backbone: str, layers: Sequence[str | int], width: int) -> None:
        super().__init__()
        self.backbone = FrozenBackbone(backbone, layers)
        channels = sum(describe(backbone, layers).channels)
        self.head: nn.Conv2d | nn.Sequential = nn.Conv2d(channels, 1, kernel_size=1)
        if objective == "deep_sad":
            self.head = nn.Sequential(
                nn.Conv2d(channels, channels, kernel_size=1, bias=False),
                nn.LeakyReLU(),
                nn.Conv2d(channels, width, kernel_size=1, bias=False),
            )
        self.is_distance = objective == "deep_sad"
        self.center: Tensor
        self.register_buffer("center", torch.zeros(width))

    def embed(self, images: Tensor) -> Tensor:
        """Output of the head for normalized images (N, 3, H, W): (N, 1 or width, H', W')."""
        features = [f.shape[1] ** 0.5 * functional.normalize(f.float(), dim=1) for f in self.backbone(images)]
        size = features[0].shape[-2:]
        joined = torch.cat([functional.interpolate(f, size, mode="bilinear") for f in features], dim=1)
        return torch.as_tensor(self.head(joined))

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, H', W') and image scores (N,)."""
        found = self.embed(images)
        maps = (found - self.center[:, None, None]).square().sum(dim=1) if self.is_distance else found[:, 0]
        flat = maps.flatten(1)
        return maps, flat.topk(max(1, int(TOP_SHARE * flat.shape[1])), dim=1).values.mean(dim=1)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Map (N, 1, H, W) of the images' size and score (N,), in full precision as those of ``Ckaad``."""
        with torch.autocast(images.device.type, enabled=False):
            maps, scores = self.score(images)
        large = functional.interpolate(maps.unsqueeze(1), images.shape[-2:], mode="bilinear")
        return InferenceBatch(anomaly_map=large, pred_score=scores)


class FeatureHead(AnomalibModule):
    """A study's method: ``HeadModel``, trained with normal images and known anomalies by DevNet's or Deep SAD's loss.

    Deep SAD's center is the mean output for the normal training images before training. Differences from the papers:
    the backbone is frozen, as for all methods of a study; images have one scale; and DevNet ranks scores instead of
    their absolute values.

    Args:
        objective: ``devnet`` or ``deep_sad``.
        backbone: See ``Ckaad``.
        layers: See ``Ckaad``.
        weights: See ``Ckaad``.
        pre_trained: See ``Ckaad``.
        image_size: Height and width in pixels.
        learning_rate: Learning rate of Adam.
        width: Number of channels of Deep SAD's space.
        visualizer: See anomalib's models.

    Raises:
        ConfigurationError: If the objective is unknown.
        WeightsError: If the weights are missing or unreadable.
    """

    learns_from_known_anomalies = True

    def __init__(
        self,
        objective: ObjectiveName = "devnet",
        backbone: str = "resnet18.tv_in1k",
        layers: Sequence[str | int] = (2, 3),
        weights: str | None = None,
        pre_trained: bool = True,  # noqa: FBT001, FBT002 - anomalib's name and kind
        image_size: int = 256,
        learning_rate: float = 1e-3,
        width: int = 64,
        visualizer: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        if objective not in get_args(ObjectiveName):
            msg = f"`objective` must be {' or '.join(get_args(ObjectiveName))}, not {objective!r}."
            raise ConfigurationError(msg)
        layers = tuple(layers)
        if pre_trained:
            check_weights(backbone, weights)
        super().__init__(
            pre_processor=make_pre_processor((image_size, image_size), normalization(backbone, weights)),
            evaluator=False,
            visualizer=visualizer,
        )
        self.objective = objective
        self.learning_rate = learning_rate
        self.model: HeadModel = HeadModel(objective, backbone, layers, width)
        if pre_trained:
            load_backbone_weights(self.model.backbone, weights)
        self.references: Tensor
        self.register_buffer("references", torch.randn(REFERENCES))

    def on_train_start(self) -> None:
        """Compute Deep SAD's center before any weight has changed."""
        super().on_train_start()
        loader: Any = self.trainer.train_dataloader
        if self.objective != "deep_sad" or self.model.center.any():
            return
        transform = getattr(self.pre_processor, "transform", None) or nn.Identity()
        found = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for batch in loader:
                images = batch.image[~batch.gt_label.bool()].to(self.device)
                found.append(self.model.embed(transform(images)).mean(dim=(2, 3)))
        self.model.center.copy_(away_from_zero(torch.cat(found).mean(dim=0)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401 - an ImageBatch
        """Loss of the batch's normal images and known anomalies.

        Raises:
            DataError: If DevNet gets a batch without a known anomaly: equal scores would minimize its loss.
        """
        del batch_idx
        labels = batch.gt_label.bool()
        if self.objective == "devnet" and not labels.any():
            msg = "DevNet got a training batch without known anomalies. Wrap the data set in KnownAnomalies."
            raise DataError(msg)
        _, scores = self.model.score(batch.image)
        is_devnet = self.objective == "devnet"
        loss = deviation_loss(scores, labels, self.references) if is_devnet else deep_sad_loss(scores, labels)
        self.log("loss", loss, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ANN401 - Lightning's type has no batches
        """Score a batch."""
        del batch_idx
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with Deep SAD's weight decay of 1e-6."""
        return torch.optim.Adam(self.model.head.parameters(), self.learning_rate, weight_decay=1e-6)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No sanity check before training; the number of epochs is left to the trainer."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """One-class, the only type that anomalib trains."""
        return LearningType.ONE_CLASS
