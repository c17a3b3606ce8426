"""The benchmark's baseline computes what the package does."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_ckaad.network.discriminator import PatchDiscriminator
from anomalib_ckaad.network.objective import STRATEGIES, Objective, alternating_step
from anomalib_ckaad.torch_model import CkaadModel

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def plain_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks are in the checkout alone")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec: Any = importlib.util.spec_from_file_location("plain_step", BENCHMARKS / "plain_step.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plain_step", module)
    spec.loader.exec_module(module)
    return module


def test_same_losses_and_weights(plain_step: Any) -> None:
    torch.manual_seed(0)
    model = CkaadModel("resnet18", (2, 3))
    discriminator = PatchDiscriminator(model.auto_encoder.architecture.channels)
    for module in (model, discriminator):
        module.double()
    plain = plain_step.PlainStep(model, discriminator, 1e-3, 1e-4)
    plain.backbone.double()
    images = torch.randn(5, 3, 64, 64, dtype=torch.float64)
    is_anomalous = torch.arange(5) >= 3
    optimizers = [
        torch.optim.Adam(module.parameters(), rate, plain_step.BETAS)
        for module, rate in ((model.auto_encoder, 1e-3), (discriminator, 1e-4))
    ]
    for _ in range(3):
        expected = alternating_step(
            model.backbone(images),
            is_anomalous,
            auto_encoder=model.auto_encoder,
            discriminator=discriminator,
            objective=Objective(STRATEGIES["cka_patch"]),
            auto_encoder_optimizer=optimizers[0],
            discriminator_optimizer=optimizers[1],
        )
        found = plain(images[:3], images[3:])
        for name, value in found.items():
            assert value == pytest.approx(expected[name].item(), rel=1e-6), name
    for one, other in zip(plain.auto_encoder.parameters(), model.auto_encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
