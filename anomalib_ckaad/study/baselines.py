"""The obvious uses of known anomalies, for comparisons: DevNet and Deep SAD on the same frozen features."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from torch import Tensor, nn
from torch.nn import functional

from anomalib_ckaad.host.pre_processor import make_pre_processor
from anomalib_ckaad.network.backbone import FrozenBackbone, describe
from anomalib_ckaad.weights.loading import check_weights, load_backbone_weights, normalization

ObjectiveName = Literal["devnet", "deep_sad"]
MARGIN = 5.0
"""a of DevNet's deviation loss: known anomalies shall be five standard deviations above the reference."""
REFERENCES = 5000
"""Number of normal random numbers that DevNet's reference score and its deviation come from."""
TOP_SHARE = 0.1
"""Share of the positions whose mean is the image score: DevNet's multiple-instance learning."""


def deviation_loss(scores: Tensor, is_anomalous: Tensor, references: Tensor, margin: float = MARGIN) -> Tensor:
    """DevNet (arXiv 2108.00462), equations (3) and (4): (1 - y) |dev| + y max(0, a - dev).

    Args:
        scores: Image scores (N,).
        is_anomalous: Which are known anomalies (N,).
        references: Scores drawn from a standard normal distribution, which say what is normal and how far it spreads.
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
    """Deep SAD (arXiv 1906.02694), equation (7): distances to the center, those of known anomalies to the power of -1.

    Args:
        distances: Squared distances (N,), at least 0.
        is_anomalous: Which are known anomalies (N,).
        weight: eta, of the labeled images; default 1, as in the paper's experiments.
        epsilon: Added before the division.

    Returns:
        Mean over the images; the decay of the weights is the optimizer's.

    Example:
        >>> deep_sad_loss(torch.tensor([1.0, 2.0]), torch.tensor([False, True]))
        tensor(0.7500)
    """
    labeled = weight / (distances + epsilon)
    return torch.where(is_anomalous, labeled, distances).mean()


def away_from_zero(center: Tensor, least: float = 0.1) -> Tensor:
    """Deep SAD's center with no component nearer to 0 than ``least``: weights of 0 would reach it.

    As its authors' code does. Example:
        >>> away_from_zero(torch.tensor([0.0, -0.01, 0.5]))
        tensor([ 0.1000, -0.1000,  0.5000])
    """
    signs = torch.where(center < 0, -1.0, 1.0).to(center)
    return torch.where(center.abs() < least, least * signs, center)


class HeadModel(nn.Module):
    """A small head on a frozen backbone's features; its map is an anomaly map.

    Features of all stages, each with a mean square of 1 over its channels, are brought to the largest one's size and
    joined.
    DevNet's head scores every position by a 1x1 convolution; Deep SAD's takes them by two bias-free 1x1 convolutions to
    a space in which the squared distance to a fixed center is the anomaly map. The image score is the mean of the
    largest tenth of the map.

    Args:
        objective: ``devnet`` or ``deep_sad``.
        backbone: As Ckaad's.
        layers: As Ckaad's.
        width: Channels of Deep SAD's space.
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
        """What the head gives for normalized images (N, 3, H, W): (N, 1 or width, H', W')."""
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
        """Map (N, 1, H, W) in the images' size and score (N,), in full precision as Ckaad's are."""
        with torch.autocast(images.device.type, enabled=False):
            maps, scores = self.score(images)
        large = functional.interpolate(maps.unsqueeze(1), images.shape[-2:], mode="bilinear")
        return InferenceBatch(anomaly_map=large, pred_score=scores)


class FeatureHead(AnomalibModule):
    """A study's method: ``HeadModel``, trained with normal images and known anomalies by DevNet's or Deep SAD's loss.

    Deep SAD's center is the mean over the normal images of an epoch before training. Departures from the papers: the
    backbone is frozen, as all methods of a study have it, images have one scale, and DevNet ranks scores and not their
    absolute values.

    Args:
        objective: ``devnet`` or ``deep_sad``.
        backbone: As Ckaad's.
        layers: As Ckaad's.
        weights: As Ckaad's.
        pre_trained: As Ckaad's.
        image_size: Height and width in pixels.
        learning_rate: Of Adam.
        width: Channels of Deep SAD's space.
        visualizer: As anomalib's.

    Raises:
        ValueError: If the objective is unknown, or the weights cannot be had.
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
            msg = f"Expected objective to be {' or '.join(get_args(ObjectiveName))}, got {objective!r}. Do correct it."
            raise ValueError(msg)
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
        """Find Deep SAD's center, before any weight has changed."""
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
            ValueError: If DevNet gets no known anomaly: all scores alike would be its best answer.
        """
        del batch_idx
        labels = batch.gt_label.bool()
        if self.objective == "devnet" and not labels.any():
            msg = "Expected known anomalies for DevNet, got a batch without. Do wrap the data with KnownAnomalies."
            raise ValueError(msg)
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
        """No number of epochs of its own."""
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """One class: the only type that anomalib trains."""
        return LearningType.ONE_CLASS
