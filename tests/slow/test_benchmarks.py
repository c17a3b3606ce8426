"""The benchmarks run, print their tables and write them into a report; how fast anything is, is not asserted."""

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
SMALL = ("--image-size", 64, "--threads", 1)


@pytest.fixture(autouse=True)
def beside_the_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Benchmarks are found, also by the processes that they start, and leave nothing turned off."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(1)


class Runner:
    """Runs a benchmark in this process, which has torch already."""

    def __init__(self, report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.report, self.monkeypatch, self.capsys = report, monkeypatch, capsys

    def __call__(self, module: ModuleType | str, *options: object) -> Any:
        """The JSON object in its last line; its report has a section."""
        module = importlib.import_module(module) if isinstance(module, str) else module
        words = [module.__name__, *options, "--report", self.report]
        self.monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        module.main()
        assert "<!-- begin " in self.report.read_text()
        return json.loads(self.capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.chdir(tmp_path)
    return Runner(tmp_path / "report.md", monkeypatch, capsys)


def test_inference(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    inference = importlib.import_module("inference")
    monkeypatch.setattr(inference, "TRAINING_IMAGES", (100, 400))
    rows = run(inference, "--repeats", 2, "--largest-batch", 1, *SMALL)["rows"]
    models = ("Ckaad", "PaDiM", "PatchCore, 100 images", "PatchCore, 400 images")
    found = [(row["runtime"], row["model"], row["batch"]) for row in rows]
    assert found == [(runtime, model, 1) for runtime in ("torch", "OpenVINO") for model in models]
    for row in rows:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["memory"] > 50
        assert (row["ratio"] == 1) == (row["model"] == "PatchCore, 400 images")
    # OpenVINO's processes hold no torch.
    assert max(row["memory"] for row in rows if row["runtime"] == "OpenVINO") < 600


def test_training_step(run: Runner) -> None:
    found = run("training_step", "--rounds", 2, "--backbones", "resnet18", "--precision", "float32", *SMALL)
    assert set(found) == {"resnet18"}
    for name in ("ratio", "ratio_saving", "ratio_cached", "memory_ratio", "memory_ratio_saving"):
        assert 0 < found["resnet18"][name] < 100
    memory = found["resnet18"]["mebibytes"]
    assert memory["nothing"] < memory["state"] < min(memory["package"], memory["saving"])


def test_cache(run: Runner) -> None:
    options = ("--backbones", "resnet18", "--anomalies", "known")
    row = run("cache", "--rounds", 2, "--images", 20, *options, *SMALL)["resnet18"]["known"]
    assert row["memory"] > 0
    assert row["disk"] > 0
    expected = (20 + 16) * 4 * (128 * 8 * 8 + 256 * 4 * 4)  # float32: images are small
    assert row["memory_bytes"] == expected
    assert expected < row["disk_bytes"] < 1.05 * expected


def test_growth(run: Runner) -> None:
    varied = ("--counts", 20, 40, "--sizes", 64, "--backbones", "resnet18")
    groups = run("growth", "--rounds", 1, *varied, "--images", 20, *SMALL)["groups"]
    assert [len(rows) for rows in groups.values()] == [2, 1, 1]
    assert groups["images"][0] == groups["size"][0] == groups["backbone"][0]  # the same case is measured once
    for row in groups["images"]:
        assert row["seconds_an_image"] == pytest.approx(row["seconds"] / row["images"])
        assert row["memory"] > 200


def test_startup(run: Runner) -> None:
    milliseconds = run("startup", "--repeats", 2)["milliseconds"]
    assert milliseconds["anomalib-ckaad --help / import torch"]["median"] > 0
    assert milliseconds["hook"]["lower"] > 0


@pytest.mark.parametrize(
    ("name", "option", "least"),
    [
        ("inference", "--repeats", 2),
        ("training_step", "--rounds", 2),
        ("cache", "--rounds", 2),
        ("growth", "--rounds", 1),
        ("startup", "--repeats", 2),
    ],
)
def test_too_few_rounds_are_refused(
    name: str, option: str, least: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, option, str(least - 1)])
    with pytest.raises(SystemExit):
        importlib.import_module(name).main()
    assert f"{option} must be at least {least}, not {least - 1}." in capsys.readouterr().err


def test_export_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module("export_precision")
    small = {"image_size": 64, "train_images": 8, "train_batch_size": 8, "eval_batch_size": 4, "images_per_defect": 1}
    monkeypatch.setattr(module, "TEXTURES", small)
    monkeypatch.chdir(tmp_path)
    words = ["export_precision", "--without", "fp16", "int8", "int8_ptq", "int8_acq", "--report", "report.md"]
    monkeypatch.setattr(sys, "argv", words)
    module.main()
    printed, report = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    for name in ("checkpoint, in torch", "f32", "bf16, OpenVINO's own choice"):
        (row,) = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
        assert row in printed
