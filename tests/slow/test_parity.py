"""Checkpoint, torch, ONNX Runtime and OpenVINO give the same, on a trained model and images of several sizes."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from PIL import Image
from torch.nn import functional

from anomalib_ckaad.cli import main as cli
from anomalib_ckaad.data.textures.textures import Textures
from anomalib_ckaad.export.runtimes import load_exported
from anomalib_ckaad.lightning_model import Ckaad

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOLERANCE = 1e-4
SHAPES = [(1, 96, 96), (3, 128, 128), (8, 512, 384), (3, 81, 100), (1, 1030, 777)]
INT8 = [CompressionType.INT8, CompressionType.INT8_PTQ, CompressionType.INT8_ACQ]
BACKBONES = ["tf_efficientnet_lite0", "resnet18"]
# Takes a quarter of an hour: rounding costs a calibrated map more, and NNCF ranks all operations.
LONG = pytest.param(
    "tf_efficientnet_lite0", CompressionType.INT8_ACQ, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]
)


def textures(root: Path) -> Textures:
    return Textures(
        root=root,
        image_size=128,
        train_images=24,
        validation_images=8,
        test_good_images=8,
        images_per_defect=2,
        train_batch_size=8,
        eval_batch_size=8,
    )


@contextmanager
def tracing_once(folder: Path) -> Iterator[None]:
    """Makes exports to ONNX, with which those to OpenVINO begin, once for the same arguments; then copies them."""
    with pytest.MonkeyPatch.context() as patch:
        export = AnomalibModule.to_onnx

        def to_onnx(self: Ckaad, export_root: Path | str, *arguments: Any, **more: Any) -> Path:
            kept = folder / repr((arguments, sorted(more.items()), self._raw_outputs)).replace("/", "")
            if not kept.exists():
                export(self, kept, *arguments, **more)
            shutil.copytree(kept, export_root, dirs_exist_ok=True)
            return Path(export_root) / "weights" / "onnx" / "model.onnx"

        patch.setattr(AnomalibModule, "to_onnx", to_onnx)
        yield


def train_and_export(backbone: str, root: Path) -> Path:
    arguments = {"weights": "package"} if "lite0" in backbone else {"pre_trained": False}
    model = Ckaad(
        backbone,
        layers=(2, 3),
        image_size=96,
        learning_rate=1e-3,
        research={"discriminator_learning_rate": 1e-3},
        seed=0,
        visualizer=False,
        **arguments,
    )
    engine = Engine(
        default_root_dir=root / "run", accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=2
    )
    engine.fit(model, datamodule=textures(root / "data"))
    share = float(model.model.calibration.get_buffer("share"))
    assert 0 < share < 1 if model.calibrate else share == 1  # graphs hold the multiplication
    with tracing_once(root / "traced"):
        for kind in ("torch", "onnx", "openvino"):
            engine.export(
                model, kind, export_root=root, ckpt_path=checkpoint(root), onnx_kwargs={"raw_outputs": kind != "torch"}
            )
    return root


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Trains with a backbone the first time it is asked for it."""
    return cache(lambda backbone: train_and_export(backbone, tmp_path_factory.mktemp(backbone)))


@pytest.fixture(params=BACKBONES)
def trained(request: pytest.FixtureRequest, trainings: Callable[[str], Path]) -> Path:
    """A folder with the data set, one checkpoint, and its exports with raw outputs."""
    return trainings(request.param)


def checkpoint(root: Path) -> Path:
    (path,) = root.glob("run/Ckaad/Textures/brick/v0/weights/lightning/model.ckpt")
    return path


def exported(root: Path, kind: str) -> Path:
    ending = {"torch": "pt", "onnx": "onnx", "openvino": "xml"}[kind]
    return root / "weights" / kind / f"model.{ending}"


def texture_batch(root: Path, count: int, height: int, width: int) -> torch.Tensor:
    paths = sorted((root / "data" / "brick" / "test").rglob("*.png"))[:count]
    images = torch.stack([torch.as_tensor(read_image(path, as_tensor=True)) for path in paths])
    return functional.interpolate(images, size=(height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_scores_maps_labels_and_masks_are_those_of_training(
    kind: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = Ckaad.load_from_checkpoint(checkpoint(trained)).eval()
    run = load_exported(exported(trained, kind)).run
    for shape in SHAPES:
        images = texture_batch(trained, *shape)
        with torch.inference_mode():
            raw = model.model(model.pre_processor.transform(images))  # as training resizes
            expected = {**model.post_processor(raw)._asdict(), "raw_pred_score": raw.pred_score}
        outputs = run(images.numpy())
        for name in ("pred_score", "anomaly_map", *(["raw_pred_score"] if kind != "torch" else [])):
            assert np.abs(outputs[name] - expected[name].numpy()).max() < TOLERANCE, (shape, name)
        assert (outputs["pred_label"] == expected["pred_label"].numpy()).all(), shape
        # A pixel as near to the threshold as rounding can fall on either side of it.
        apart = np.abs(expected["anomaly_map"].numpy() - 0.5) > TOLERANCE
        assert (outputs["pred_mask"] == expected["pred_mask"].numpy())[apart].all(), shape
        if kind != "torch":
            assert np.abs(outputs["raw_anomaly_map"] - raw.anomaly_map.numpy()).max() < TOLERANCE, shape


def test_prediction_by_anomalibs_engine_gives_the_same_from_files_larger_than_the_model(
    trained: Path, tmp_path: Path
) -> None:
    for index, image in enumerate(texture_batch(trained, 3, 512, 384)):
        Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    model = Ckaad.load_from_checkpoint(checkpoint(trained), visualizer=False)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    batches: Any = engine.predict(model, dataset=PredictDataset(tmp_path), ckpt_path=checkpoint(trained))
    run = load_exported(exported(trained, "openvino")).run
    for batch in batches:
        for path, score, map_ in zip(batch.image_path, batch.raw_pred_score, batch.anomaly_map, strict=True):
            outputs = run(np.asarray(read_image(path, as_tensor=True))[None])
            assert outputs["raw_pred_score"][0] == pytest.approx(float(score), abs=TOLERANCE)
            assert np.abs(outputs["anomaly_map"][0] - map_.numpy()).max() < TOLERANCE


def test_the_graph_holds_what_inference_needs_and_nothing_else(trained: Path) -> None:
    model = Ckaad.load_from_checkpoint(checkpoint(trained))
    assert model.discriminator is not None
    graph = onnx.load(exported(trained, "onnx")).graph
    assert [output.name for output in graph.output][:4] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert len(graph.node) < 1000
    assert not [entry.name for entry in graph.initializer if "discriminator" in entry.name]
    needed = sum(tensor.numel() for tensor in model.model.state_dict().values())
    held = sum(int(np.prod(entry.dims)) for entry in graph.initializer)
    assert held < needed + 20_000
    assert exported(trained, "openvino").with_suffix(".bin").stat().st_size < 4 * needed + 200_000


@pytest.mark.parametrize(
    ("trained", "compression"),
    [
        LONG if pair == LONG.values else pair
        for pair in itertools.product(BACKBONES, [None, CompressionType.FP16, *INT8])
    ],
    indirect=["trained"],
)
def test_every_compression_exports_at_a_fixed_size_and_runs(
    compression: CompressionType | None, trained: Path, tmp_path: Path
) -> None:
    with tracing_once(trained / "traced"):
        path = Engine(logger=False).export(
            Ckaad(pre_trained=False),
            "openvino",
            export_root=tmp_path,
            input_size=(128, 128),
            compression_type=compression,
            datamodule=textures(trained / "data"),
            ckpt_path=checkpoint(trained),
            onnx_kwargs={"raw_outputs": True},
        )
    assert path is not None
    full = load_exported(exported(trained, "openvino")).run
    small = load_exported(path)
    assert small.size == (128, 128)
    images = texture_batch(trained, 8, 128, 128).numpy()
    for batch in (images[:1], images):
        difference = np.abs(small.run(batch)["raw_pred_score"] - full(batch)["raw_pred_score"]).max()
        assert difference < {None: TOLERANCE, CompressionType.FP16: 0.02}.get(compression, 0.15)
    bits = {None: 32, CompressionType.FP16: 16}.get(compression, 8)
    model = Ckaad.load_from_checkpoint(checkpoint(trained)).model
    needed = bits / 8 * sum(p.numel() for p in model.parameters())
    if compression == CompressionType.INT8_PTQ:  # the backbone keeps its precision
        needed += 3 * sum(p.numel() for p in model.backbone.parameters())
    needed += 4 * sum(buffer.numel() for buffer in model.calibration.buffers())
    assert path.with_suffix(".bin").stat().st_size < 1.4 * needed + 200_000


def command(trained: Path, file: Path, *more: str, data: Path | None = None) -> int:
    given = ["--ckpt", str(checkpoint(trained)), "--exported", str(file)]
    return cli.main(["validate", *given, "--data", str(data or trained / "data" / "brick" / "test"), *more])


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_validate_agrees(
    kind: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    assert command(trained, exported(trained, kind)) == 0
    printed = capsys.readouterr().out
    for words in ("18 images", "image AUROC", "latency, ms", "raw_anomaly_map", "labels flipped", "agree"):
        assert words in printed


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_validate_agrees_on_a_folder_of_files_as_users_have_them(kind: str, trained: Path, tmp_path: Path) -> None:
    """JPEG and PNG, of several sizes, some gray."""
    sources = sorted((trained / "data" / "brick" / "test").glob("*/*.png"))[::3]
    sizes = [(96, 96), (133, 87), (640, 480), (300, 410), (81, 200), (1024, 768)]
    for number, (source, size) in enumerate(zip(sources, sizes, strict=False)):
        folder = tmp_path / ("good" if number % 2 else "bad")
        folder.mkdir(exist_ok=True)
        picture = Image.open(source).convert("L" if number == 2 else "RGB").resize(size)
        picture.save(folder / f"{number}.{'png' if number % 3 else 'jpg'}")
    assert command(trained, exported(trained, kind), data=tmp_path) == 0


def test_validate_takes_a_config(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    settings = "image_size: 128, train_images: 24, validation_images: 8, test_good_images: 8, images_per_defect: 2"
    config.write_text(
        f"data:\n  class_path: anomalib_ckaad.Textures\n  init_args: {{root: {trained / 'data'}, {settings}}}\n"
    )
    assert command(trained, exported(trained, "onnx"), data=config) == 0
    assert "18 images" in capsys.readouterr().out


def test_validate_finds_an_exported_file_of_other_weights(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Ckaad.load_from_checkpoint(checkpoint(trained))
    for parameter in model.model.auto_encoder.parameters():
        parameter.data *= 1.05
    assert command(trained, model.to_onnx(tmp_path)) == 1
    assert "differ" in capsys.readouterr().out


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("onnx", truncate),
        ("onnx", lambda path: truncate(path.with_name("model.onnx.data"))),
        ("onnx", lambda path: path.write_bytes(b"")),
        ("openvino", truncate),
        ("openvino", lambda path: truncate(path.with_suffix(".bin"))),
        ("openvino", lambda path: path.with_suffix(".bin").unlink()),
        ("torch", truncate),
    ],
)
def test_validate_says_what_is_wrong_with_a_damaged_file(
    kind: str,
    damage: Callable[[Path], object],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    for path in exported(trained, kind).parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path / exported(trained, kind).name)
    assert command(trained, tmp_path / exported(trained, kind).name) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(tmp_path / "model") in message
    assert "xport the model again" in message


def test_openvinos_own_precision_differs_on_processors_with_bf16(trained: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    assert command(trained, exported(trained, "openvino"), "--precision", "bf16") == 1
