"""One training step of CKAAD in the reference's order of computation, with nothing done for speed: the baseline.

Everything is float32 with channels first. The backbone keeps its batch norms and computes all its layers; normal and
anomalous images pass backbone, auto-encoder and discriminator apart; gradients flow into the discriminator in the
auto-encoder's half of the step as well, and are thrown away; Adam goes from tensor to tensor.
"""

import copy
from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_ckaad.network.channels_last import InstanceNorm
from anomalib_ckaad.torch_model import CkaadModel

BETAS = (0.5, 0.999)
MARGIN, BALANCE, ADVERSARIAL_WEIGHT, CLIP_NORM = 5.0, 0.5, 0.02, 1.0


class PlainStep:
    """The baseline, with weights of its own that begin as those of a model do.

    Args:
        model: Backbone and auto-encoder; a ResNet of timm.
        discriminator: The patch discriminator.
        learning_rate: Adam's, of the auto-encoder.
        discriminator_learning_rate: Adam's, of the discriminator.
    """

    def __init__(
        self,
        model: CkaadModel,
        discriminator: nn.Module,
        learning_rate: float = 5e-3,
        discriminator_learning_rate: float = 1e-4,
    ) -> None:
        backbone = timm.create_model(model.backbone.name, pretrained=False, features_only=True)
        self.backbone = backbone.to(next(model.parameters()).device).eval()
        # Not strict: the model's own backbone ends where the last chosen stage does.
        self.backbone.load_state_dict(model.backbone.network.state_dict(), strict=False)
        self.stages = [stage.index for stage in model.backbone.stages]
        self.auto_encoder = _plain(model.auto_encoder)
        self.discriminator = _plain(discriminator)
        options = {"betas": BETAS, "foreach": False, "fused": False}
        self.of_auto_encoder = torch.optim.Adam(self.auto_encoder.parameters(), learning_rate, **options)
        self.of_discriminator = torch.optim.Adam(
            self.discriminator.parameters(), discriminator_learning_rate, **options
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of the chosen stages of normalized images (N, 3, H, W), one tensor (N, C_k, H_k, W_k) a stage."""
        with torch.no_grad():
            every = self.backbone(images)
        return [every[index] for index in self.stages]

    def __call__(self, normal: Tensor, anomalous: Tensor) -> dict[str, float]:
        """One step on normalized images (N, 3, H, W) and (M, 3, H, W); the losses by the names that Ckaad logs."""
        of_normal, of_anomalous = self.features(normal), self.features(anomalous)
        made_normal, made_anomalous = self.auto_encoder(of_normal), self.auto_encoder(of_anomalous)

        self.of_discriminator.zero_grad()
        detached = [[g.detach() for g in made] for made in (made_normal, made_anomalous)]
        discriminator_loss = (
            _mean_energies([self.energies(of_normal)])
            + (1 - BALANCE) * _mean_energies([_hinges(self.energies(of_anomalous))])
            + BALANCE * _mean_energies([_hinges(self.energies(made)) for made in detached])
        )
        discriminator_loss.backward()
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), CLIP_NORM, foreach=False)
        self.of_discriminator.step()

        self.of_auto_encoder.zero_grad()
        reconstruction = sum(
            (1 - functional.cosine_similarity(f.flatten(1), g.flatten(1))).mean()
            for f, g in zip(of_normal, made_normal, strict=True)
        )
        generator = _mean_energies([self.energies(made_normal), self.energies(made_anomalous)])
        (reconstruction + ADVERSARIAL_WEIGHT * generator).backward()
        self.of_auto_encoder.step()
        losses = {"discriminator": discriminator_loss, "reconstruction": reconstruction, "generator": generator}
        return {name: loss.item() for name, loss in losses.items()}

    def energies(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Energies of every position, one tensor (N, H_k, W_k) a stage."""
        return [score.abs() for score in self.discriminator(features)]


def _hinges(energies: Sequence[Tensor]) -> list[Tensor]:
    return [(MARGIN - energy).clamp(min=0) for energy in energies]


def _mean_energies(batches: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean over images and positions, sum over stages; batches weigh as many images as they have."""
    return torch.stack([torch.cat(stage).mean() for stage in zip(*batches, strict=True)]).sum()


def _plain(module: nn.Module) -> nn.Module:
    """A copy with channels first and torch's own instance normalization."""
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, InstanceNorm):
                plain = nn.InstanceNorm2d(child.num_features, affine=True).to(child.weight)
                plain.load_state_dict(child.state_dict())
                setattr(parent, name, plain)
    return module
