"""Equations (2), (4), (7)-(9) and (11)-(13) of the CKAAD paper, and the strategies that combine them.

An *energy* is a non-negative number that is small where the discriminator takes a feature for normal. Energies come as
one tensor a stage, (N, H, W) for the patch discriminator or (N,) for the image one; a mean over positions and a sum
over stages makes one number an image of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from anomalib_ckaad.errors import NonFiniteLossError
from anomalib_ckaad.network.channels_last import cosine_of_maps
from anomalib_ckaad.network.gradients import without_gradients

StrategyName = Literal["cka_patch", "cka_image", "gan", "recon_sub", "recon"]


@dataclass(frozen=True)
class Strategy:
    """What a way of training needs: which discriminator, and what it is told of the anomalous images.

    Attributes:
        discriminator: ``"patch"`` scores every position, ``"image"`` the whole image, ``None`` trains without one.
        knowledge: Whether the discriminator is told that the features of anomalous images are anomalous, the second
            term of equations (8) and (11).
        subtraction: Whether the reconstruction loss of anomalous images is subtracted, equation (4).
    """

    discriminator: Literal["patch", "image"] | None = None
    knowledge: bool = False
    subtraction: bool = False

    @property
    def needs_anomalies(self) -> bool:
        """Whether the training step looks at anomalous images at all."""
        return self.discriminator is not None or self.subtraction

    @property
    def is_told(self) -> bool:
        """Whether training is told which images are anomalous."""
        return self.knowledge or self.subtraction


STRATEGIES: dict[StrategyName, Strategy] = {
    "cka_patch": Strategy(discriminator="patch", knowledge=True),
    "cka_image": Strategy(discriminator="image", knowledge=True),
    "gan": Strategy(discriminator="patch"),
    "recon_sub": Strategy(subtraction=True),
    "recon": Strategy(),
}


@dataclass(frozen=True)
class Objective:
    """A strategy with its weights.

    Attributes:
        strategy: One of ``STRATEGIES``.
        adversarial_weight: Weight of the generator's loss, lambda of equation (13).
        margin: Energy above which an anomalous feature costs nothing, m of equations (8) and (11).
        balance: Share of reconstructions against anomalous features, gamma of equations (8) and (11).
        subtraction_weight: Weight of the subtracted reconstruction loss, beta of equation (4).
    """

    strategy: Strategy
    adversarial_weight: float = 0.02
    margin: float = 5.0
    balance: float = 0.5
    subtraction_weight: float = 0.1


def reconstruction_error(features: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> Tensor:
    """Equation (2) for each image: sum over stages of 1 - cosine of the whole flattened feature maps.

    Args:
        features: One tensor (N, C_k, H_k, W_k) a stage.
        reconstructions: The same shapes.

    Returns:
        Errors (N,), each in [0, 2 * number of stages].

    Example:
        >>> f = torch.ones(2, 3, 4, 4)
        >>> reconstruction_error([f, f], [2 * f, -f])
        tensor([2., 2.])
    """
    per_stage = [
        1 - cosine_of_maps(f, g)  # sums over whole maps in float32: they lose too much in half precision
        for f, g in zip(features, reconstructions, strict=True)
    ]
    return torch.stack(per_stage).sum(dim=0)


def reconstruction_loss(error: Tensor, is_anomalous: Tensor, subtraction_weight: float = 0.0) -> Tensor:
    """Equation (2), or (4) where a weight is given: mean error of the normal images less that of the anomalous ones.

    Args:
        error: Errors (N,) of ``reconstruction_error``.
        is_anomalous: Booleans (N,); at least one is False.
        subtraction_weight: beta of equation (4); 0 leaves the anomalous images out.

    Returns:
        A number.
    """
    loss = error[~is_anomalous].mean()
    if subtraction_weight and bool(is_anomalous.any()):
        loss = loss - subtraction_weight * error[is_anomalous].mean()
    return loss


def _mean_over_positions(energy: Tensor) -> Tensor:
    """(N, ...) -> (N,)."""
    return energy.flatten(1).mean(dim=1) if energy.ndim > 1 else energy


def discriminator_loss(
    feature_energies: Sequence[Tensor],
    reconstruction_energies: Sequence[Tensor],
    is_anomalous: Tensor,
    *,
    margin: float = 5.0,
    balance: float = 0.5,
    knowledge: bool = True,
) -> Tensor:
    """Equation (8), or (11) for energies with positions.

    ``E_N D(f) + (1 - balance) E_A [margin - D(f)]+ + balance E_{N,A} [margin - D(g)]+``: mean over images and
    positions, sum over stages. Expectations over N and A together weigh every image alike.

    Args:
        feature_energies: D of the backbone's features, one tensor (N, H_k, W_k) or (N,) a stage.
        reconstruction_energies: D of their reconstructions, the same shapes.
        is_anomalous: Booleans (N,); at least one is False.
        margin: m, the energy from which on an anomalous feature costs nothing.
        balance: gamma, the share of the last term against the second.
        knowledge: False leaves the second term out, as the plain adversarial ablation does, equation (7).

    Returns:
        A number.

    Example:
        >>> discriminator_loss([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 7.0])], torch.tensor([False, True]))
        tensor(3.)
    """
    loss = feature_energies[0].new_zeros(())
    for of_features, of_reconstructions in zip(feature_energies, reconstruction_energies, strict=True):
        loss = loss + _mean_over_positions(of_features[~is_anomalous]).mean()
        if knowledge and bool(is_anomalous.any()):
            hinge = (margin - of_features[is_anomalous]).clamp(min=0)
            loss = loss + (1 - balance) * _mean_over_positions(hinge).mean()
        loss = loss + balance * _mean_over_positions((margin - of_reconstructions).clamp(min=0)).mean()
    return loss


def generator_loss(reconstruction_energies: Sequence[Tensor]) -> Tensor:
    """Equation (9), or (12) for energies with positions: mean energy of all reconstructions, summed over stages.

    Args:
        reconstruction_energies: One tensor (N, H_k, W_k) or (N,) a stage.

    Returns:
        A number.

    Example:
        >>> generator_loss([torch.full((2, 3, 3), 1.5), torch.full((2, 2, 2), 0.5)])
        tensor(2.)
    """
    return torch.stack([_mean_over_positions(energy).mean() for energy in reconstruction_energies]).sum()


def _require_finite(name: str, value: Tensor) -> None:
    if not bool(torch.isfinite(value)):
        msg = (
            f"The {name} is {value.item()}. Lower `learning_rate` or `discriminator_learning_rate`, or look for "
            "damaged images. The last checkpoint is unchanged."
        )
        raise NonFiniteLossError(msg)


def alternating_step(
    features: Sequence[Tensor],
    is_anomalous: Tensor,
    *,
    auto_encoder: nn.Module,
    discriminator: nn.Module | None,
    objective: Objective,
    auto_encoder_optimizer: torch.optim.Optimizer,
    discriminator_optimizer: torch.optim.Optimizer | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
    gradient_clip_norm: float = 1.0,
) -> dict[str, Tensor]:
    """Equation (13): one step of the discriminator on detached reconstructions, then one of the auto-encoder.

    The auto-encoder meets the discriminator that has just been updated, as in the reference code. Normal and anomalous
    images share one pass: with instance normalization that equals two passes, and is faster.

    Args:
        features: The frozen backbone's features, one tensor (N, C_k, H_k, W_k) a stage, shallow to deep.
        is_anomalous: Booleans (N,); at least one is False.
        auto_encoder: Features to reconstructions of the same shapes.
        discriminator: Features to signed scores, one tensor a stage; None where the strategy has none.
        objective: Strategy and weights.
        auto_encoder_optimizer: Optimizer of the auto-encoder.
        discriminator_optimizer: Optimizer of the discriminator, if there is one.
        backward: What to call with a loss to get its gradients.
        gradient_clip_norm: Largest norm of the discriminator's gradients; the auto-encoder's are not clipped.

    Returns:
        Detached numbers: ``reconstruction``, and with a discriminator ``generator``, ``discriminator`` and
        ``discriminator_gradient_norm`` (before clipping).

    Raises:
        NonFiniteLossError: If a loss or a gradient is NaN or infinite; no weight has been touched by it.
    """
    report: dict[str, Tensor] = {}
    # Before the forward pass, whose maps are what takes memory: gradients of the step before are not there beside them.
    auto_encoder_optimizer.zero_grad()
    reconstructions = auto_encoder(features)

    if discriminator is not None and discriminator_optimizer is not None:
        loss = discriminator_loss(
            [score.abs() for score in discriminator(features)],
            [score.abs() for score in discriminator([g.detach() for g in reconstructions])],
            is_anomalous,
            margin=objective.margin,
            balance=objective.balance,
            knowledge=objective.strategy.knowledge,
        )
        _require_finite("discriminator loss", loss)
        discriminator_optimizer.zero_grad()
        backward(loss)
        norm = nn.utils.clip_grad_norm_(discriminator.parameters(), gradient_clip_norm)
        _require_finite("gradient of the discriminator", norm)
        discriminator_optimizer.step()
        report |= {"discriminator": loss.detach(), "discriminator_gradient_norm": norm.detach()}

    weight = objective.subtraction_weight if objective.strategy.subtraction else 0.0
    total = reconstruction_loss(reconstruction_error(features, reconstructions), is_anomalous, weight)
    _require_finite("reconstruction loss", total)
    report["reconstruction"] = total.detach()
    if discriminator is None:
        backward(total)
    else:
        with without_gradients(discriminator):  # the auto-encoder's step does not need the discriminator's
            adversarial = generator_loss([score.abs() for score in discriminator(reconstructions)])
            _require_finite("generator loss", adversarial)
            backward(total + objective.adversarial_weight * adversarial)
        report["generator"] = adversarial.detach()
    gradients = [parameter.grad for parameter in auto_encoder.parameters() if parameter.grad is not None]
    _require_finite("gradient of the auto-encoder", nn.utils.get_total_norm(gradients))
    auto_encoder_optimizer.step()
    return report
