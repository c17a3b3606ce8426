"""Benchmarks of time and memory run, and print and write what they say; what they measure is not asserted."""

import re
from pathlib import Path

import pytest

from tests.conftest import write_images
from tests.slow.benchmark_runs import run, run_to_its_end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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
