"""Benchmarks of accuracy run, and print and write what they say; what they measure is not asserted."""

import importlib
from pathlib import Path

import pytest
import torch

from anomalib_ckaad.network.objective import discriminator_loss
from tests.conftest import write_images
from tests.slow.benchmark_runs import ROOT, run, run_to_its_end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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
    assert len({(row["map"], row["training"]) for row in found["rows"]}) == len(found["rows"]) == 12
    aupro = {row["training"]: row["brick, AUPRO"] for row in found["rows"] if row["map"] == "equation (14)"}
    usual = aupro.pop("constant rate")
    assert len(aupro) == 5
    assert all(other != usual for other in aupro.values())  # each is another way
    assert "<!-- begin trainings -->" in report


def test_a_long_training(tmp_path: Path) -> None:
    found, report = run("trainings", tmp_path, "--seeds", 1, "--steps", 2, "--long")
    aupro = {(row["map"], row["training"]): row["brick, AUPRO"] for row in found["rows"]}
    assert len(aupro) == len(set(aupro.values())) == 4
    assert "<!-- begin trainings-long -->" in report


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
