"""Exports of a model that is not fitted, that fail half-way, or that lack a package; what a .pt file holds."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule

from anomalib_ckaad.cli.checked import CheckedCLI
from anomalib_ckaad.errors import ConfigurationError, ExportError, FileError, MissingPackageError
from anomalib_ckaad.export import whole
from anomalib_ckaad.export.whole import check_installed, export_at_once
from anomalib_ckaad.lightning_model import Ckaad
from tests.conftest import make_folder_data
from tests.models import make_ckaad


def tiny(*, fitted: bool = True, **arguments: Any) -> Ckaad:
    defaults = {"backbone": "resnet18", "layers": (1, 2), "image_size": 64, "pre_trained": False, "seed": 0}
    model = make_ckaad(**{**defaults, **arguments}).eval()
    if fitted:  # what validation does
        model.post_processor.load_state_dict(
            {
                "_image_threshold": torch.tensor(0.5),
                "_pixel_threshold": torch.tensor(0.6),
                "image_min": torch.tensor(0.0),
                "image_max": torch.tensor(2.0),
                "pixel_min": torch.tensor(0.0),
                "pixel_max": torch.tensor(2.0),
            },
            strict=False,
        )
    return model


@pytest.mark.parametrize("method", ["to_torch", "to_onnx", "to_openvino"])
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [({}, "has no threshold"), ({"post_processor": False}, "was neither trained nor loaded")],
)
def test_a_model_that_is_not_fitted_is_refused_before_anything_is_written(
    method: str, arguments: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    model = tiny(fitted=False, **arguments)
    with pytest.raises(ExportError, match=rf"{problem}.* Train it .*`ckpt_path`"):
        getattr(model, method)(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "kind"), [("to_torch", "torch"), ("to_onnx", "onnx"), ("to_openvino", "openvino")])
def test_an_export_that_fails_half_way_leaves_the_earlier_file_and_nothing_else(
    method: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: AnomalibModule, export_root: Path, *args: Any, **kwargs: Any) -> Path:
        folder = Path(export_root) / "weights" / kind
        folder.mkdir(parents=True)
        (folder / "model.any").write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(AnomalibModule, method, fail)
    earlier = tmp_path / "old" / "weights" / kind / "model.any"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("whole")
    for root in (tmp_path / "old", tmp_path / "new" / "deep"):
        with pytest.raises(RuntimeError, match="disk full"):
            getattr(tiny(), method)(root)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [earlier]
    assert earlier.read_text() == "whole"
    assert not (tmp_path / "new").exists()


def test_weights_are_in_place_before_the_graph_that_refers_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (moved.append(self.name), replace(self, target))[1])

    def write(root: Path) -> Path:
        for name in ("a.xml", "b.bin"):
            (root / name).write_text(name)
        return root / "a.xml"

    assert export_at_once(tmp_path, write) == tmp_path / "a.xml"
    assert moved == ["b.bin", "a.xml"]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match=rf"`export_root` is not a folder: {root}\."):
            tiny().to_torch(root)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"openvino .*`pip install 'anomalib-ckaad\[openvino\]'`") as missing:
        check_installed("openvino")
    assert missing.value.name == "openvino"
    with pytest.raises(MissingPackageError, match="onnx"):
        tiny().to_onnx("anywhere")


def test_torch_exports_hold_no_discriminator_and_the_model_keeps_its_own(tmp_path: Path) -> None:
    model = tiny()
    path = model.to_torch(tmp_path)
    loaded = torch.load(path, weights_only=False)["model"]
    assert model.discriminator is not None
    assert loaded.discriminator is None
    needed = sum(parameter.numel() for parameter in model.model.parameters())
    assert sum(parameter.numel() for parameter in loaded.parameters()) == needed
    assert path.stat().st_size < 4.2 * needed


def test_raw_outputs_are_the_models_own_and_only_there_when_asked_for() -> None:
    model = tiny()
    images = torch.rand(2, 3, 90, 70)
    with torch.no_grad():
        raw = model.model(model.pre_processor(images))
        with model.raw_outputs():
            outputs = model(images)
        assert isinstance(model(images), InferenceBatch)
    assert torch.equal(outputs.raw_pred_score, raw.pred_score)
    assert torch.equal(outputs.raw_anomaly_map, raw.anomaly_map)
    # anomalib cuts normalized scores off, so that they cannot be turned back.
    expected = ((raw.pred_score - 0.5) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(outputs.pred_score, expected)
    assert outputs._fields[:4] == InferenceBatch._fields


@pytest.mark.parametrize("arguments", [{}, {"norm": "batch"}])
def test_int8_ptq_quantizes_the_auto_encoder_and_nothing_else(
    arguments: dict[str, Any], folder_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny(layers=(2,), **arguments)  # one stage: a third of the convolutions to export and calibrate
    data = make_folder_data(folder_root)
    path = model.to_openvino(tmp_path, compression_type="int8_ptq", datamodule=data)
    operations = openvino.Core().read_model(path).get_ordered_ops()
    stored = [op for op in operations if op.get_type_name() == "Constant" and op.get_element_type().size == 1]
    quantized = sum(int(np.prod(op.shape)) for op in stored if len(op.shape) == 4)
    convolutions = [module for module in model.model.auto_encoder.modules() if hasattr(module, "transposed")]
    assert quantized == sum(module.weight.numel() for module in convolutions)
    assert "INT8_PTQ is calibrated with 2 validation images; 300 or more" in caplog.text
    with torch.inference_mode():
        images = torch.rand(1, 3, 64, 64)
        expected = model(images).anomaly_map
    found = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images.numpy())
    assert np.abs(found["anomaly_map"] - expected.numpy()).max() < 0.1


@pytest.mark.parametrize(
    ("compression", "images", "message"),
    [
        ("INT8_PTQ", None, "INT8_PTQ needs validation images.* `--data`"),
        ("int8_acq", None, "INT8_ACQ needs validation images.* `--data`"),
        ("int8_acq", 1, "INT8_ACQ needs batches of 2 images.* `eval_batch_size` is 1"),
        ("int4", 4, "`compression_type` must be one of fp16, int8, int8_ptq, int8_acq, not 'int4'"),
    ],
)
def test_compression_that_cannot_be(
    compression: str, images: int | None, message: str, folder_root: Path, tmp_path: Path
) -> None:
    data = None if images is None else make_folder_data(folder_root, eval_batch_size=images)
    with pytest.raises(ExportError, match=message):
        tiny().to_openvino(tmp_path / "new", compression_type=compression, datamodule=data)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", ["to_torch", "to_onnx", "to_openvino"])
def test_weights_that_are_not_finite_are_refused(method: str, tmp_path: Path) -> None:
    model = tiny()
    next(model.model.auto_encoder.parameters()).data.fill_(torch.inf)
    with pytest.raises(ExportError, match="weights that are not finite"):
        getattr(model, method)(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_openvino_compresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = ["--export_type", "onnx", "--compression_type", "FP16"]
    with pytest.raises(ConfigurationError, match=r"--compression_type FP16 needs --export_type openvino, not onnx"):
        CheckedCLI(["export", "--model", "Ckaad", "--model.pre_trained", "false", *kind, "--ckpt_path", "no.ckpt"])
    assert list(tmp_path.iterdir()) == []
