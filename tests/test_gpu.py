"""On a GPU as on a CPU: scores, steps, calibration, precision. Skipped where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.network.discriminator import PatchDiscriminator
from anomalib_ckaad.network.grad_checkpointing import set_grad_checkpointing
from anomalib_ckaad.network.objective import STRATEGIES, Objective, alternating_step
from anomalib_ckaad.torch_model import CkaadModel
from anomalib_ckaad.training.optimizer import make_adam
from tests.conftest import make_folder_data
from tests.models import make_ckaad

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def three_steps(device: str, backbone: str, *, saving: bool) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Losses of three steps in float64, and the weights of auto-encoder and discriminator after them."""
    torch.manual_seed(0)
    model = CkaadModel(backbone, (2, 3)).double()
    discriminator = PatchDiscriminator(model.auto_encoder.architecture.channels).double()
    model, discriminator = model.to(device), discriminator.to(device)
    if saving:
        set_grad_checkpointing(model.auto_encoder, discriminator)
    optimizers = [make_adam(module.parameters(), 1e-3) for module in (model.auto_encoder, discriminator)]
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(3):
        images = torch.rand(4, 3, 64, 64, generator=generator).to(device, torch.float64)
        report = alternating_step(
            model.backbone(images),
            torch.tensor([False, False, True, True], device=device),
            auto_encoder=model.auto_encoder,
            discriminator=discriminator,
            objective=Objective(STRATEGIES["cka_patch"]),
            auto_encoder_optimizer=optimizers[0],
            discriminator_optimizer=optimizers[1],
        )
        losses += [value.cpu() for value in report.values()]
    weights = model.auto_encoder.state_dict() | discriminator.state_dict()
    return losses, {name: value.cpu() for name, value in weights.items()}


@pytest.mark.parametrize("saving", [False, True])
@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_same_steps(backbone: str, saving: bool) -> None:
    there, here = three_steps("cuda", backbone, saving=saving), three_steps("cpu", backbone, saving=False)
    torch.testing.assert_close(there[0], here[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(there[1], here[1], rtol=1e-5, atol=1e-6)


def fit(
    root: Path, folder: Path, accelerator: str, epochs: int = 2, **arguments: Any
) -> tuple[Ckaad, Engine, set[torch.dtype]]:
    """A trained and calibrated model, its engine, and the types of its reconstructions in training."""
    defaults: dict[str, Any] = {"pre_trained": False, "image_size": 64, "seed": 0, "calibrate": True}
    model = make_ckaad("resnet18", (2, 3), **{**defaults, **arguments}, visualizer=False)
    seen: set[torch.dtype] = set()

    def note(_module: Any, _args: Any, out: Any) -> None:
        if torch.is_grad_enabled():
            seen.add(out[0].dtype)

    model.model.auto_encoder.register_forward_hook(note)
    engine = Engine(
        default_root_dir=folder, accelerator=accelerator, devices=1, enable_progress_bar=False, max_epochs=epochs
    )
    engine.fit(model, datamodule=make_folder_data(root, masks=True))
    return model, engine, seen


@pytest.mark.parametrize(("autocast", "expected"), [(None, torch.float32), (True, torch.bfloat16)])
def test_trained_here_scored_there(
    autocast: bool | None, expected: torch.dtype, folder_root: Path, tmp_path: Path
) -> None:
    """A checkpoint of a GPU gives the same scores on a CPU, but for the rounding of TF32."""
    model, engine, seen = fit(folder_root, tmp_path, "gpu", autocast=autocast)
    assert seen == {expected}
    assert model.model.calibration.is_set
    (found,) = engine.test(model, datamodule=make_folder_data(folder_root, masks=True))
    (path,) = tmp_path.glob("**/model.ckpt")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    on_cpu = Ckaad.load_from_checkpoint(path, map_location="cpu").eval()
    on_gpu = Ckaad.load_from_checkpoint(path).cuda().eval()
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        here, there = on_cpu.model(images), on_gpu.model(images.cuda())
    torch.testing.assert_close(there.anomaly_map.cpu(), here.anomaly_map, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(there.pred_score.cpu(), here.pred_score, rtol=2e-3, atol=2e-3)
    engine = Engine(default_root_dir=tmp_path / "cpu", accelerator="cpu", enable_progress_bar=False)
    (again,) = engine.test(on_cpu, datamodule=make_folder_data(folder_root, masks=True))
    assert set(again) == set(found)


def test_known_anomalies_on_a_gpu(folder_root: Path, tmp_path: Path) -> None:
    from anomalib_ckaad import KnownAnomalies  # noqa: PLC0415

    data = KnownAnomalies(make_folder_data(folder_root, masks=True), count=2, seed=0)
    model = make_ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, seed=0, calibrate=True)
    engine = Engine(default_root_dir=tmp_path, accelerator="gpu", devices=1, enable_progress_bar=False, max_epochs=1)
    engine.fit(model, datamodule=data)
    assert model.model.calibration.is_set
    (found,) = engine.test(model, datamodule=data)
    assert 0 <= found["image_AUROC"] <= 1


def test_a_training_is_resumed(folder_root: Path, tmp_path: Path) -> None:
    _, engine, _ = fit(folder_root, tmp_path / "first", "gpu", epochs=1)
    (path,) = (tmp_path / "first").glob("**/model.ckpt")
    model = make_ckaad("resnet18", (2, 3), pre_trained=False, image_size=64, seed=0, visualizer=False)
    engine = Engine(
        default_root_dir=tmp_path / "second", accelerator="gpu", devices=1, enable_progress_bar=False, max_epochs=2
    )
    engine.fit(model, datamodule=make_folder_data(folder_root), ckpt_path=str(path))
    assert model.current_epoch == 2
