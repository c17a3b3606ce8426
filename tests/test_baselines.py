"""DevNet's and Deep SAD's losses by hand, and heads that learn, train and give maps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from anomalib_ckaad import KnownAnomalies
from anomalib_ckaad.errors import ConfigurationError, DataError
from anomalib_ckaad.study.baselines import FeatureHead, HeadModel, deep_sad_loss, deviation_loss
from tests.conftest import make_folder_data, write_images

TINY: dict[str, Any] = {"backbone": "resnet18", "layers": (1, 2), "pre_trained": False, "image_size": 64}


def test_deviation_loss_by_hand() -> None:
    references = torch.tensor([0.0, 2.0, 4.0])  # mean 2, deviation 2
    scores = torch.tensor([4.0, -2.0, 6.0, 20.0])
    labels = torch.tensor([False, False, True, True])
    # |1|, |-2|; 5 - 2, and beyond the margin nothing
    assert deviation_loss(scores, labels, references) == pytest.approx((1 + 2 + 3 + 0) / 4)


def test_deep_sad_loss_by_hand() -> None:
    distances, labels = torch.tensor([3.0, 4.0]), torch.tensor([False, True])
    assert deep_sad_loss(distances, labels, weight=2.0) == pytest.approx((3 + 2 / 4) / 2)
    assert torch.isfinite(deep_sad_loss(torch.zeros(2), labels))


def test_a_deep_sad_map_is_the_distance_to_the_center() -> None:
    model = HeadModel("deep_sad", "resnet18", (1, 2), width=8).eval()
    model.center.copy_(torch.rand(8))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = model.embed(images)
        maps, scores = model.score(images)
    expected = sum((found[:, channel] - model.center[channel]) ** 2 for channel in range(8))
    torch.testing.assert_close(maps, expected)
    top = maps.flatten(1).sort(descending=True).values[:, : maps[0].numel() // 10]
    torch.testing.assert_close(scores, top.mean(dim=1))
    assert not [name for name, _ in model.head.named_parameters() if "bias" in name]  # else all might collapse


@pytest.mark.parametrize("objective", ["devnet", "deep_sad"])
def test_known_anomalies_rise_above_normal_images(objective: Any) -> None:
    torch.manual_seed(0)
    head = FeatureHead(objective, **TINY)
    normal, bad = torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64)
    bad[..., 16:48, 16:48] = 0
    labels = torch.tensor([False] * 4 + [True] * 4)
    with torch.no_grad():
        head.model.center.copy_(head.model.embed(normal).mean(dim=(0, 2, 3)) if objective == "deep_sad" else 0)
    optimizer = head.configure_optimizers()
    backbone = [parameter.clone() for parameter in head.model.backbone.parameters()]
    for _ in range(30):
        _, scores = head.model.score(torch.cat([normal, bad]))
        loss = (
            deviation_loss(scores, labels, head.references) if objective == "devnet" else deep_sad_loss(scores, labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        _, scores = head.model.score(torch.cat([normal, bad]))
    assert scores[4:].min() > scores[:4].max()
    for before, after in zip(backbone, head.model.backbone.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("objective", ["devnet", "deep_sad"])
def test_heads_run_under_the_engine(objective: Any, folder_root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "known" / "scratch", 3)
    data = KnownAnomalies(make_folder_data(folder_root, masks=True), known_anomaly_dir=tmp_path / "known")
    head = FeatureHead(objective, **TINY)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, **quiet)
    engine.fit(head, datamodule=data)
    assert bool(head.model.center.any()) == (objective == "deep_sad")
    (batch, *_) = engine.predict(head, datamodule=data) or []
    assert batch.anomaly_map.shape[-2:] == (64, 64)
    assert not head.post_processor.image_threshold.isnan()


def test_devnet_needs_known_anomalies(folder_root: Path, tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, **quiet)
    with pytest.raises(DataError, match=r"DevNet .*without known anomalies.*KnownAnomalies"):
        engine.fit(FeatureHead("devnet", **TINY), datamodule=make_folder_data(folder_root))


def test_an_unknown_objective() -> None:
    with pytest.raises(ConfigurationError, match=r"`objective` must be devnet or deep_sad, not 'svdd'"):
        FeatureHead("svdd", **TINY)  # type: ignore[arg-type]
