"""CkaadModel: image -> features -> reconstruction -> anomaly map and score; what is exported."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from anomalib_ckaad.errors import ConfigurationError
from anomalib_ckaad.network.auto_encoder import FeatureAutoEncoder, NormName
from anomalib_ckaad.network.backbone import FrozenBackbone, describe
from anomalib_ckaad.scoring.anomaly_map import TopK, anomaly_map, check_top_k, image_score, join_stages
from anomalib_ckaad.scoring.calibration import ResidualCalibration


class CkaadModel(nn.Module):
    """The part of CKAAD that inference needs; the discriminator is not among it.

    Args:
        backbone: timm's name of the backbone.
        layers: Names or numbers of the stages whose features are reconstructed.
        norm: Normalization of the auto-encoder.
        score_top_k: How the image score is made of the map, as ``image_score`` takes it.
        output_relu: Whether reconstructions end in a ReLU; None asks the backbone whether its features are ever
            negative.

    Raises:
        ConfigurationError: If the backbone or a layer is unknown.
    """

    def __init__(
        self,
        backbone: str,
        layers: Sequence[str | int],
        norm: NormName = "instance",
        score_top_k: TopK = 100,
        output_relu: bool | None = None,  # noqa: FBT001 - three values
    ) -> None:
        super().__init__()
        self.backbone = FrozenBackbone(backbone, layers)
        architecture = describe(backbone, layers)
        # A ReLU cannot give signed features back, and spares features that are never negative impossible values.
        output_relu = self.backbone.is_never_negative() if output_relu is None else output_relu
        architecture = replace(architecture, output_relu=output_relu)
        self.auto_encoder = FeatureAutoEncoder(architecture, norm)
        self.calibration = ResidualCalibration(len(architecture.channels))
        self.score_top_k = score_top_k

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.auto_encoder.parameters()).dtype

    @property
    def tiler(self) -> None:
        """None: where ``TilerConfigurationCallback`` would put its tiler."""
        return

    @tiler.setter
    def tiler(self, tiler: Any) -> None:  # noqa: ANN401 - anomalib's
        """Refuse to cut images into tiles, which neither checkpoints nor exported models would know of.

        Raises:
            ConfigurationError: Always; the message names what to do for large images.
        """
        msg = (
            f"Ckaad takes no tiles (here {tiler.tile_size_h}x{tiler.tile_size_w}), as neither checkpoints nor exported "
            "models keep them. Enlarge `image_size`, or train on crops as docs/large_images.md shows."
        )
        raise ConfigurationError(msg)

    def check_size(self, height: int, width: int) -> None:
        """Refuse images that leave the bottleneck less than two positions, or the image score too few pixels.

        Raises:
            ConfigurationError: If a side is too small, or ``score_top_k`` exceeds the map.
        """
        check_top_k(self.score_top_k, height * width)
        smallest = self.auto_encoder.architecture.smallest_side
        if min(height, width) < smallest:
            name = self.backbone.stages[-1].name
            msg = (
                f"Images of {height}x{width} pixels are too small for layer {name} of {self.backbone.name}: at least "
                f"{smallest}x{smallest} are needed. Enlarge `image_size`, or choose shallower `layers`."
            )
            raise ConfigurationError(msg)

    def feature_bytes(self, height: int, width: int) -> int:
        """Bytes that the features of one image of so many pixels take, in the precision of the weights."""
        architecture = self.auto_encoder.architecture
        sizes = zip(architecture.channels, architecture.strides, strict=True)
        each = next(self.auto_encoder.parameters()).element_size()
        return sum(each * channels * -(-height // stride) * -(-width // stride) for channels, stride in sizes)

    def reconstruct(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of normalized images (N, 3, H, W) and their reconstructions, one tensor a stage each."""
        if not torch.compiler.is_compiling():
            self.check_size(*images.shape[-2:])
        features = self.backbone(images)
        return features, self.auto_encoder(features)

    def score(
        self, features: Sequence[Tensor], reconstructions: Sequence[Tensor], size: tuple[int, int]
    ) -> InferenceBatch:
        """Anomaly map (N, 1, H, W) and image score (N,) of features and their reconstructions.

        Both are computed in full precision, also under autocast: half precision would round scores together.
        """
        device = features[0].device.type
        if torch.is_autocast_enabled(device):  # entered only where needed: an exporter would record the context
            with torch.autocast(device, enabled=False):
                return self.score(features, reconstructions, size)
        if self.calibration.is_set:
            maps = join_stages(self.calibration(features, reconstructions), size)
        else:
            maps = anomaly_map(features, reconstructions, size)
        return InferenceBatch(anomaly_map=maps, pred_score=image_score(maps, self.score_top_k))

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score normalized images (N, 3, H, W): anomaly map (N, 1, H, W) and image score (N,), both raw."""
        features, reconstructions = self.reconstruct(images)
        height, width = images.shape[-2:]
        return self.score(features, reconstructions, (height, width))
