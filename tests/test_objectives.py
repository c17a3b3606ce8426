"""Closed forms and gradient routing of the objectives."""

import pytest
import torch
from torch import Tensor, nn

from anomalib_ckaad.errors import NonFiniteLossError
from anomalib_ckaad.network.objective import (
    STRATEGIES,
    Objective,
    StrategyName,
    alternating_step,
    discriminator_loss,
    generator_loss,
    reconstruction_error,
    reconstruction_loss,
)

NORMAL_AND_ANOMALOUS = torch.tensor([False, False, True])


def test_reconstruction_error_is_zero_for_multiples_and_one_for_orthogonal_maps() -> None:
    f = torch.zeros(1, 2, 1, 2)
    f[0, 0, 0, 0] = 3.0
    g = torch.zeros(1, 2, 1, 2)
    g[0, 1, 0, 1] = 0.1
    assert reconstruction_error([f], [2 * f]).item() == pytest.approx(0, abs=1e-6)
    assert reconstruction_error([f], [g]).item() == pytest.approx(1, abs=1e-6)
    assert reconstruction_error([f, f], [g, -f]).item() == pytest.approx(3, abs=1e-6)


def test_reconstruction_error_takes_the_whole_map_not_each_position() -> None:
    """Two positions of which the larger is reproduced: the cosine over the map follows the larger one."""
    f = torch.tensor([[[[10.0, 1.0]]]])
    g = torch.tensor([[[[10.0, -1.0]]]])
    assert reconstruction_error([f], [g]).item() == pytest.approx(1 - 99 / 101, abs=1e-6)


def test_reconstruction_loss_leaves_anomalous_images_out_or_subtracts_them() -> None:
    error = torch.tensor([0.2, 0.4, 1.0])
    assert reconstruction_loss(error, NORMAL_AND_ANOMALOUS).item() == pytest.approx(0.3)
    assert reconstruction_loss(error, NORMAL_AND_ANOMALOUS, 0.1).item() == pytest.approx(0.2)
    assert reconstruction_loss(error[:2], NORMAL_AND_ANOMALOUS[:2], 0.1).item() == pytest.approx(0.3)


def test_discriminator_loss_by_hand() -> None:
    features = torch.tensor([[1.0, 3.0], [0.0, 0.0], [4.0, 7.0]]).view(3, 1, 2)
    reconstructions = torch.tensor([[5.0, 9.0], [0.0, 5.0], [3.0, 4.0]]).view(3, 1, 2)
    # normal: mean(2, 0) = 1; anomalous hinge: mean(1, 0) = 0.5; reconstructions' hinges: mean(0, 2.5, 1.5) = 4 / 3
    expected = 1 + 0.75 * 0.5 + 0.25 * 4 / 3
    both = ([features, features], [reconstructions, reconstructions], NORMAL_AND_ANOMALOUS)
    assert discriminator_loss(*both, balance=0.25).item() == pytest.approx(2 * expected)
    one = ([features], [reconstructions], NORMAL_AND_ANOMALOUS)
    assert discriminator_loss(*one, balance=0.25, knowledge=False).item() == pytest.approx(1 + 0.25 * 4 / 3)


def test_image_level_loss_is_the_patch_level_loss_of_one_position() -> None:
    energy, of_reconstruction = torch.rand(3) * 6, torch.rand(3) * 6
    patch = discriminator_loss(
        [energy.view(3, 1, 1)], [of_reconstruction.view(3, 1, 1)], NORMAL_AND_ANOMALOUS, margin=3.0
    )
    image = discriminator_loss([energy], [of_reconstruction], NORMAL_AND_ANOMALOUS, margin=3.0)
    assert image.item() == pytest.approx(patch.item())


def test_generator_loss_weighs_every_image_and_stage_alike() -> None:
    assert generator_loss([torch.tensor([[[1.0]], [[3.0]]]), torch.full((2, 4, 4), 0.5)]).item() == pytest.approx(2.5)


class Scale(nn.Module):
    """The smallest module with one weight a stage."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, weight]).view(1, 2, 1, 1))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [f * self.weight for f in features]


class Score(nn.Module):
    """A discriminator with one weight a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.7]).view(1, 2, 1, 1))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [(f * self.weight).sum(dim=1) for f in features]


def one_step(strategy: StrategyName, features: list[Tensor] | None = None) -> tuple[Scale, Score, dict[str, Tensor]]:
    torch.manual_seed(0)
    auto_encoder, discriminator = Scale(0.5), Score()
    uses_discriminator = STRATEGIES[strategy].discriminator is not None
    report = alternating_step(
        features or [torch.rand(3, 2, 2, 2) + 0.1],
        NORMAL_AND_ANOMALOUS,
        auto_encoder=auto_encoder,
        discriminator=discriminator if uses_discriminator else None,
        objective=Objective(STRATEGIES[strategy]),
        auto_encoder_optimizer=torch.optim.SGD(auto_encoder.parameters(), lr=0.1),
        discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=0.1) if uses_discriminator else None,
    )
    return auto_encoder, discriminator, report


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_moves_what_it_has(strategy: StrategyName) -> None:
    auto_encoder, discriminator, report = one_step(strategy)
    assert auto_encoder.weight.grad is not None
    assert not torch.equal(auto_encoder.weight, Scale(0.5).weight)
    has_discriminator = STRATEGIES[strategy].discriminator is not None
    assert torch.equal(discriminator.weight, Score().weight) is not has_discriminator
    assert ("generator" in report) is has_discriminator
    assert all(not value.requires_grad for value in report.values())


def test_generator_step_leaves_no_gradient_in_the_discriminator_and_meets_the_updated_one() -> None:
    _, discriminator, report = one_step("cka_patch")
    assert all(parameter.requires_grad for parameter in discriminator.parameters())
    # The gradient that is left is that of the discriminator's own step: clipped to norm 1 at most.
    assert discriminator.weight.grad.norm().item() <= 1 + 1e-6
    torch.manual_seed(0)
    before = [Scale(0.5)([torch.rand(3, 2, 2, 2) + 0.1])[0]]
    with_updated = generator_loss([score.abs() for score in discriminator(before)]).item()
    with_old = generator_loss([score.abs() for score in Score()(before)]).item()
    assert report["generator"].item() == pytest.approx(with_updated)
    assert with_updated != pytest.approx(with_old)


def test_reconstruction_alone_does_not_look_at_anomalous_images() -> None:
    features = torch.rand(3, 2, 2, 2)
    other = features.clone()
    other[2] = 9.0
    first, _, _ = one_step("recon", [features])
    second, _, _ = one_step("recon", [other])
    third, _, _ = one_step("recon_sub", [other])
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, third.weight)


@pytest.mark.parametrize("strategy", ["cka_patch", "recon"])
def test_a_loss_that_is_not_finite_stops_before_any_weight_moves(strategy: StrategyName) -> None:
    auto_encoder, discriminator = Scale(0.5), Score()
    with pytest.raises(NonFiniteLossError, match=r"The .* loss is nan\. Lower `learning_rate`"):
        alternating_step(
            [torch.full((3, 2, 2, 2), torch.nan)],
            NORMAL_AND_ANOMALOUS,
            auto_encoder=auto_encoder,
            discriminator=discriminator if strategy == "cka_patch" else None,
            objective=Objective(STRATEGIES[strategy]),
            auto_encoder_optimizer=torch.optim.SGD(auto_encoder.parameters(), lr=0.1),
            discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=0.1),
        )
    assert torch.equal(auto_encoder.weight, Scale(0.5).weight)
    assert torch.equal(discriminator.weight, Score().weight)
