"""The examples run as their first lines say."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.conftest import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[2] / "examples"


class Runner:
    """Runs an example in this process, as ``python NAME ARGUMENTS`` would, and returns what it prints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, name: str, *arguments: str | Path) -> str:
        self.monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return self.capsys.readouterr().out


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


def test_known_anomalies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, test and export; a few steps are enough here."""
    for folder, count in (
        ("good", 12),
        ("known/dent", 2),
        ("test_good", 3),
        ("test_bad/dent", 2),
        ("test_bad/hole", 2),
    ):
        write_images(tmp_path / "line" / folder, count, seed=len(folder))
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / "known_anomalies.py"))["main"]
    main(tmp_path / "line", max_steps=4, accelerator="cpu")
    out = capsys.readouterr().out
    assert "seen_image_AUROC" in out
    assert "unseen_image_AUROC" in out
    (exported,) = tmp_path.rglob("model.xml")
    assert str(exported.relative_to(tmp_path)) in out.replace("\n", "")


def test_group_exposures(tmp_path: Path, run: Runner) -> None:
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
    lines = run("group_exposures.py", tmp_path).splitlines()
    assert lines == [
        "image,group",
        *("crack/a_1000.png,1000", "good/b_1100.png,1000", "good/c_2300.png,1000"),
        *("hole/9000.png,9000", "hole/d_2600.png,1000"),  # far away; like b_1100, by its pattern
    ]
    assert "hole/d_2600.png,2600" in run("group_exposures.py", tmp_path, "--far", "0")
    with pytest.raises(SystemExit):
        run("group_exposures.py", tmp_path / "good")


def test_show_metrics(tmp_path: Path, run: Runner) -> None:
    for name, auroc in (("one", 0.9876), ("two", 0.5)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": name, "metrics": {"image_AUROC": auroc}}))
    lines = run("show_metrics.py", tmp_path / "one.json", tmp_path / "two.json").splitlines()
    assert [line.split() for line in lines] == [["image_AUROC"], ["one", "98.8"], ["two", "50.0"]]
