"""The examples run as their first lines say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.conftest import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments: str | Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_real_images(tmp_path: Path) -> None:
    for folder, count in (("train/good", 6), ("test/good", 3), ("test/crack", 4), ("test/hole", 3)):
        write_images(tmp_path / "set" / folder, count)
    report = tmp_path / "report.md"
    shared = ["--image-size", "64", "--epochs", "1", "--seeds", "1", "--batch-size", "2", "--layers", "2", "3"]
    out = run(
        EXAMPLES / "real_images.py",
        *["--data", tmp_path / "set", "--known", "2", "--known-types", "crack", "--output", tmp_path / "out"],
        *["--report", report, *shared],
    )
    runs = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [(r["strategy"], r["known"]) for r in runs] == [("recon", {}), ("cka_patch", {"crack": 2})]
    assert [r["types"]["crack"]["images"] for r in runs] == [2, 2]  # the known ones are tested on by neither
    assert "| cka_patch | 0.001 | crack | 2 |" in report.read_text()


def test_group_exposures(tmp_path: Path) -> None:
    """Near numbers, or numbers not too far apart and the same pattern in another light, whatever the folder."""
    draw = np.random.default_rng(0)
    one, other = (gaussian_filter(draw.normal(size=(96, 96)), 2) for _ in range(2))
    images = {
        "crack/a_1000": one,
        "good/b_1100": other,
        "good/c_2300": 0.3 * one,
        "hole/d_2600": other,
        "hole/9000": one,
    }
    for name, image in images.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        light = np.linspace(0, 80, 96)[:, None] + np.linspace(0, 40, 96)
        Image.fromarray(np.uint8(np.clip(90 + light + 150 * image, 0, 255))).save(path)
    (tmp_path / "good" / "notes.txt").write_text("no image")
    lines = run(EXAMPLES / "group_exposures.py", tmp_path).splitlines()
    assert lines == [
        "image,group",
        *("crack/a_1000.png,1000", "good/b_1100.png,1000", "good/c_2300.png,1000"),
        *("hole/9000.png,9000", "hole/d_2600.png,1000"),  # far away; like b_1100, by its pattern
    ]
    assert "hole/d_2600.png,2600" in run(EXAMPLES / "group_exposures.py", tmp_path, "--far", "0")


def test_each_type(tmp_path: Path) -> None:
    """Seen and unseen types, with no image of a known part in the test."""
    for folder, count in (("train/good", 6), ("test/good", 3), ("test/crack", 5), ("test/hole", 4)):
        write_images(tmp_path / "set" / folder, count)
    for number, folder in ((100, "test/hole"), (200, "test/good")):  # no two images are of one part
        for path in sorted((tmp_path / "set" / folder).iterdir(), reverse=True):
            path.rename(path.with_stem(str(int(path.stem) + number)))
    groups = tmp_path / "groups.csv"
    groups.write_text(run(EXAMPLES / "group_exposures.py", tmp_path / "set" / "test", "--gap", "0", "--far", "0"))
    assert len(groups.read_text().splitlines()) == 1 + 3 + 5 + 4
    shared = ["--image-size", "64", "--epochs", "1", "--seeds", "1", "--batch-size", "2", "--layers", "2", "3"]
    out = run(
        EXAMPLES / "each_type.py",
        *["--data", tmp_path / "set", "--known", "2", "--groups", groups, "--output", tmp_path / "out", *shared],
    )
    rows = [row for line in out.splitlines() if line.startswith("[") for row in json.loads(line)]
    images = {(row["strategy"], row["known"], row["type"]): row["images"] for row in rows}
    for strategy in ("recon", "cka_patch"):
        assert [images[strategy, "crack", name] for name in ("crack", "hole")] == [3, 4]
        assert [images[strategy, "hole", name] for name in ("crack", "hole")] == [5, 2]
    assert "| known | crack | hole | gain, seen | gain, unseen |" in out


def test_show_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps({"data": "mine", "metrics": {"image_AUROC": 0.9876}}))
    assert "| mine | 98.8 |" in run(EXAMPLES / "show_metrics.py", file, "--report", tmp_path / "r.md")
    assert "| mine | 98.8 |" in (tmp_path / "r.md").read_text()
