"""Benchmarks run, and print and write what they say; what they measure is not asserted."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_ckaad.objectives import discriminator_loss
from tests.conftest import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


def run_to_its_end(name: str, folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """A benchmark's output, whatever it ends with."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *map(str, options)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def run(name: str, folder: Path, *options: object) -> tuple[dict[str, Any], str]:
    """The JSON object in a benchmark's last line, and the report that it wrote."""
    report = folder / "report.md"
    done = run_to_its_end(name, folder, *options, "--report", report)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), report.read_text()


def test_inference(tmp_path: Path) -> None:
    found, report = run("inference", tmp_path, "--repeats", 2, "--image-size", 64, "--threads", 1)
    models = {(row["runtime"], row["model"], row["batch"]) for row in found["rows"]}
    for runtime in ("torch", "OpenVINO"):
        assert {(runtime, name, batch) for name in ("Ckaad", "PaDiM") for batch in (1, 16)} <= models
        assert {(runtime, f"PatchCore, {count} images", 1) for count in (100, 400, 800)} <= models
    for row in found["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["memory"] > 50
        assert (row["ratio"] == 1) == (row["model"] == "PatchCore, 400 images")
    # OpenVINO's processes hold no torch.
    assert max(row["memory"] for row in found["rows"] if row["runtime"] == "OpenVINO") < 600
    assert "<!-- begin inference -->" in report
    models = ("Ckaad", "Ckaad, uncalibrated")
    runs = [f"{one}, batch {batch}" for one in ("torch", "OpenVINO") for batch in (1, 16)]
    assert set(found["outside"]) == {f"{model}, {run}" for model in models for run in runs}


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_training_step(precision: str, tmp_path: Path) -> None:
    options = ["--rounds", 2, "--image-size", 64, "--threads", 1, "--backbones", "resnet18", "--precision", precision]
    found, report = run("training_step", tmp_path, *options)
    assert set(found) == {"resnet18"}
    for name in (
        "ratio",
        "ratio_saving",
        "ratio_cached",
        "flops_share",
        "memory_ratio",
        "memory_ratio_saving",
        "bound",
    ):
        assert 0 < found["resnet18"][name] < 100
    memory = found["resnet18"]["mebibytes"]
    assert memory["nothing"] < memory["state"] < min(memory["package"], memory["saving"])
    assert "<!-- begin training-step -->" in report


def test_cache(tmp_path: Path) -> None:
    options = ["--rounds", 2, "--image-size", 64, "--threads", 1, "--images", 40, "--backbones", "resnet18"]
    found, report = run("cache", tmp_path, *options)
    for anomalies, images in (("known", 40 + 16), ("none", 40), ("elastic", 40)):
        row = found["resnet18"][anomalies]
        assert row["memory"] > 0
        assert row["disk"] > 0
        each = 4 * (128 * 8 * 8 + 256 * 4 * 4)  # float32: images are small
        assert row["memory_bytes"] == images * each
        assert images * each < row["disk_bytes"] < 1.05 * images * each
    assert "<!-- begin cache -->" in report


def test_growth(tmp_path: Path) -> None:
    plot = tmp_path / "growth.png"
    options = [
        "--rounds",
        2,
        "--counts",
        20,
        40,
        60,
        "--sizes",
        64,
        96,
        128,
        "--images",
        20,
        "--image-size",
        64,
        "--threads",
        1,
    ]
    found, report = run("growth", tmp_path, *options, "--backbones", "resnet10t", "resnet18", "--plot", plot)
    assert [len(rows) for rows in found["groups"].values()] == [3, 3, 2]
    assert found["groups"]["images"][0] == found["groups"]["size"][0]  # the same case is measured once
    flop = [row["flop_an_image"] for row in found["groups"]["size"]]
    assert flop[1] / flop[0] == pytest.approx(1.5**2, rel=0.05)
    hours = 1e6 * found["groups"]["backbone"][1]["seconds"] / 20 / 3600
    assert found["million"]["resnet18"] == {"on this machine": pytest.approx(hours)}
    assert "Arithmetic" in report
    assert plot.stat().st_size > 10_000


def test_time_to_quality(tmp_path: Path) -> None:
    for folder, count in (("train/NORMAL", 40), ("train/PNEUMONIA", 4), ("test/NORMAL", 3), ("test/PNEUMONIA", 3)):
        write_images(tmp_path / "data" / folder, count, size=64, seed=len(folder))
    options = ["--seeds", 1, "--limit", 3, "--every", 1, "--threads", 1, "--image-size", 64, "--target", 100]
    found, report = run(
        "time_to_quality", tmp_path, tmp_path / "data", *options, "--backbone", "resnet18", "--weights", "none"
    )
    for way in ("package", "package, uncalibrated", "paper"):
        (one,) = found["runs"][way]
        assert not one["passed"]
        assert one["seconds"] >= 3
    assert "ratio" not in found  # of two that were both cut off, nothing is known
    assert "Seconds, median (quartiles): package" in report
    options[options.index("--target") + 1] = -1  # passed at the first look
    untrained = ["--backbone", "resnet18", "--weights", "none", "--keep", tmp_path / "kept"]
    found, _ = run("time_to_quality", tmp_path, tmp_path / "data", *options, *untrained)
    assert found["ratio"] > 0
    again, _ = run("time_to_quality", tmp_path, tmp_path / "data", *options, *untrained, "--ways", "paper")
    assert again["runs"]["paper"] == found["runs"]["paper"]  # to the last digit: nothing was measured again
    other = run_to_its_end("time_to_quality", tmp_path, tmp_path / "data", *options, *untrained, "--every", 2)
    assert other.returncode == 1
    assert re.search(
        r"^Expected .*package-0\.json to be of every 2, got 1\. Do give another --keep\.$", other.stderr, re.MULTILINE
    )
    (tmp_path / "kept" / "package-0.json").write_text("{")
    other = run_to_its_end("time_to_quality", tmp_path, tmp_path / "data", *options, *untrained)
    assert re.search(r"^Expected .*package-0\.json to be what an earlier run kept", other.stderr, re.MULTILINE)
    other = run_to_its_end("time_to_quality", tmp_path, tmp_path / "data", "--seeds", 0)
    assert "Expected --seeds of at least 1, got 0. Do leave it out for 3." in other.stderr
    for runs in found["runs"].values():
        assert runs[0]["passed"]
        assert runs[0]["seconds"] <= runs[0]["final"]["seconds"]
        assert len(runs[0]["course"]) <= 2  # looked at once more at the end alone


def test_calibration(tmp_path: Path) -> None:
    found, report = run("calibration", tmp_path, "--seeds", 1, "--steps", 5)
    assert len({row["map"] for row in found["rows"]}) == len(found["rows"]) == 16
    for row in found["rows"]:
        assert 0 < float(row["brick, AUROC"]) <= 100
        assert 0 < float(row["brick, AUPRO"]) <= 100
    assert "<!-- begin calibration -->" in report


def test_known_directions(tmp_path: Path) -> None:
    found, report = run("known_directions", tmp_path, "--seeds", 1, "--steps", 5)
    assert len({row["map"] for row in found["rows"]}) == len(found["rows"]) == 12
    for row in found["rows"]:
        for which in ("known type", "other types"):
            assert all(0 < float(row[f"brick, {which}, {name}"]) <= 100 for name in ("AUROC", "AUPRO"))
    assert len({row["brick, known type, AUPRO"] for row in found["rows"]}) > 1
    assert "<!-- begin known-directions -->" in report


def test_variants(tmp_path: Path) -> None:
    found, report = run("variants", tmp_path, "--seeds", 1, "--steps", 5)
    assert [row["variant"] for row in found["rows"]] == [
        "the package",
        "features standardized by channel",
        "two auto-encoders",
        *("stages 1 2 3", "stages 2 3 4", "stages 3 4"),
    ]
    for row in found["rows"]:
        assert all(50 < float(row[f"brick, {name}"]) <= 100 for name in ("AUROC", "AUPRO"))
    assert len({row["brick, AUPRO"] for row in found["rows"]}) > 1
    assert "<!-- begin variants -->" in report


def test_scores(tmp_path: Path) -> None:
    found, report = run("scores", tmp_path, "--seeds", 1, "--steps", 5)
    assert len(found["values"]) == 2 * (1 + 2 + 8)
    for way in found["values"].values():
        assert all(30 < way[f"brick, {name}"][0] <= 100 for name in ("AUROC", "AUPRO"))
    rows = found["values"]
    assert rows["the package's map, the deep stage alone"] != rows["the package's map, the shallow stage alone"]
    assert "<!-- begin scores -->" in report


def test_shares(tmp_path: Path) -> None:
    found, report = run("shares", tmp_path, "--seeds", 1, "--steps", 2)
    parts = {row["part, training images"] for row in found["rows"]}
    assert parts == {f"{name}, {count}" for name in ("brick", "gravel", "grass") for count in (80, 240)}
    for row in found["rows"]:
        values = [float(value) for name, value in row.items() if name not in {"part, training images", "metric"}]
        assert len(values) == 6
        assert all(0 < value <= 100 for value in values)
        if row["metric"] == "AUPRO":
            assert len(set(values[:5])) > 1  # shares differ
    assert "<!-- begin shares -->" in report


def test_energies(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    found, report = run("energies", tmp_path, "--seeds", 1, "--steps", 2, "--keep", kept)
    stains = {f"{name}: stain" for name in ("brick", "grass", "grass, 240 normal", "gravel", "gravel, 240 normal")}
    assert {row["known"] for row in found["rows"]} == {"brick: seam", *stains}
    assert len({(row["known"], row["map"]) for row in found["rows"]}) == len(found["rows"]) == 6 * 9
    for kind in ("seam", "stain"):
        aupro = [float(row["known type, AUPRO"]) for row in found["rows"] if row["known"] == f"brick: {kind}"]
        assert all(0 < one <= 100 for one in aupro)
        assert len(set(aupro)) > 2  # the map alone, energies alone and sums differ
    assert "<!-- begin energies -->" in report
    assert run("energies", tmp_path, "--seeds", 1, "--steps", 2, "--keep", kept)[0] == found
    refused = run_to_its_end("energies", tmp_path, "--seeds", 1, "--steps", 3, "--keep", kept)
    assert f"Expected {kept} to be of {{'steps': 3, " in refused.stderr


def test_trainings(tmp_path: Path) -> None:
    found, report = run("trainings", tmp_path, "--seeds", 1, "--steps", 4)
    assert len({(row["map"], row["training"]) for row in found["rows"]}) == len(found["rows"]) == 14
    aupro = {row["training"]: row["brick, AUPRO"] for row in found["rows"] if row["map"] == "equation (14)"}
    usual = aupro.pop("constant rate")
    assert len(aupro) == 6
    assert all(other != usual for other in aupro.values())  # each is another way
    assert "<!-- begin trainings -->" in report


def test_mixtures(tmp_path: Path) -> None:
    found, report = run("mixtures", tmp_path, "--seeds", 1, "--steps", 5)
    assert len({row["map"] for row in found["rows"]}) == len(found["rows"]) == 9
    for row in found["rows"]:
        assert all(0 < float(row[f"{part}, AUPRO"]) <= 100 for part in ("brick", "grass", "gravel"))
    assert "<!-- begin mixtures -->" in report


def test_a_mixture_of_one_cluster_is_the_length_of_all_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("mixtures")
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    rows = rows @ torch.tensor([[3.0, 0, 0], [1, 1, 0], [0, 2, 5]])
    others = rows[:20] + 1
    one, many = (module.mixture(rows, clusters)(others) for clusters in (1, 8))
    covariance = torch.cov(rows.mT.double())
    floor = 0.01 * covariance.diagonal().mean() * torch.eye(3)
    centered = (others - rows.mean(dim=0)).double()
    expected = (centered @ torch.linalg.inv(covariance + floor) * centered).sum(dim=1).sqrt()
    torch.testing.assert_close(one.double(), expected, rtol=5e-3, atol=0)
    assert not torch.allclose(many, one, rtol=0.1)
    assert torch.equal(module.bank(rows)(rows[:5]).round(decimals=2), torch.zeros(5))


def test_multiple_instances(tmp_path: Path) -> None:
    write_images(tmp_path / "chest_xray/train/NORMAL", 90, size=32)
    folder = tmp_path / "chest_xray/train/PNEUMONIA"
    write_images(folder, 8, size=32)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"person{number}_virus_1.png")
    found, report = run("multiple_instances", tmp_path, "--data", tmp_path, "--seeds", 1, "--steps", 2, "--known", 3)
    assert len({row["patches that count"] for row in found["rows"]}) == 4
    assert all(0 <= way["AUROC"][0] <= 100 for way in found["values"].values())
    assert "<!-- begin multiple-instances -->" in report


def test_all_patches_are_equation_11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("multiple_instances")
    generator = torch.Generator().manual_seed(0)
    energies = [[4 + 3 * torch.rand(4, side, side, generator=generator) for side in (4, 2)] for _ in range(2)]
    recorded = module.Recorded(torch.nn.Identity())
    recorded.errors = [torch.rand(4, side * side, generator=generator) for side in (4, 2)]
    is_anomalous = torch.tensor([False, False, True, True])
    options = {"margin": 5.0, "balance": 0.25, "knowledge": True}
    usual = discriminator_loss(*energies, is_anomalous, **options)
    losses = {
        name: module.chosen_loss(recorded, choose, discriminator_loss)(*energies, is_anomalous, **options)
        for name, choose in module.WAYS.items()
    }
    torch.testing.assert_close(losses["all patches, equation (11)"], usual)
    assert losses["the quarter with the largest energies"] < usual  # they are nearer to the margin


def test_untouched_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    untouched = importlib.import_module("untouched_tiles").untouched
    group_of = {f"good/{number}000.jpg": group for number, group in enumerate("aabbcd")}
    # Every other one is touched, and what shares a part with it: of the others, the last alone is of a part of its own.
    assert untouched(group_of) == {"good/5000.jpg"}


def test_startup(tmp_path: Path) -> None:
    found, report = run("startup", tmp_path, "--repeats", 2)
    assert found["milliseconds"]["anomalib-ckaad --help / import torch"]["median"] > 0
    assert "import torch" in report


def test_profile_step(tmp_path: Path) -> None:
    options = ["--steps", 1, "--image-size", 64, "--threads", 1, "--backbones", "resnet18"]
    found, report = run("profile_step", tmp_path, *options)
    shares = found["resnet18"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["convolutions, forward"] > 0.1
    assert shares["convolutions, backward"] > 0.1
    assert min(shares.values()) > 0
    assert "<!-- begin profile -->" in report
