"""The curve: known anomalies against AUROC, on the same test images, resumable."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from anomalib_ckaad.cli.main import main
from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.study import curve
from anomalib_ckaad.study.curve import read_rows, run_curve
from tests.conftest import write_images


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name, count in (("good", 6), ("test_good", 3), ("test/crack", 4), ("test/hole", 4)):
        write_images(tmp_path / "data" / name, count, size=64)
    folder = {
        "class_path": "Folder",
        "init_args": {
            "name": "tiny",
            "root": str(tmp_path / "data"),
            "normal_dir": "good",
            "normal_test_dir": "test_good",
            "abnormal_dir": ["test/crack", "test/hole"],
            "train_batch_size": 2,
            "num_workers": 0,
            "val_split_mode": "from_train",
            "val_split_ratio": 0.34,
            "seed": 0,
        },
    }
    model = {"backbone": "resnet18", "layers": [2, 3], "pre_trained": False, "image_size": 64}
    settings = {
        "model": {"class_path": "anomalib_ckaad.Ckaad", "init_args": model},
        "data": {"class_path": "anomalib_ckaad.KnownAnomalies", "init_args": {"data": folder, "ratio": 0.1}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(tmp_path / "results")},
    }
    OmegaConf.save(settings, tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


def test_whole_curve_and_going_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "curve"
    words = ["curve", "--config", str(config), "--counts", "0,2", "--seeds", "1", "--output", str(output)]
    words += ["--report", str(tmp_path / "report.md")]
    assert main(words) == 0
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("<!-- begin config -->")
    assert "| image AUROC | 0 known | 2 known |" in report
    assert "With 2 known anomalies instead of 0, image AUROC changes from" in capsys.readouterr().out
    rows = read_rows(output / "curve.csv")
    assert [(row["count"], row["type"], row["images"]) for row in rows if row["type"] == "all"] == [
        (0, "all", 6),
        (2, "all", 6),
    ]
    assert {row["type"] for row in rows} == {"crack", "hole", "all"}
    with Image.open(output / "curve.png") as picture:
        assert picture.width > 500

    assert not (tmp_path / "results").exists()  # what `anomalib train` has made stays the latest
    with pytest.raises(StudyError, match=rf"curve in {output} was begun with another config .*--output"):
        run_curve(config, [0, 3], 1, output)

    asked: list[tuple[int, int]] = []

    def train_once(settings: Any, count: int, reserve: int, seed: int, folder: Path) -> list[dict[str, Any]]:
        del settings, reserve, folder
        asked.append((count, seed))
        return [{"type": "all", "images": 6.0, "image_AUROC": 0.75}]

    monkeypatch.setattr(curve, "train_once", train_once)
    assert "over 2 seed(s)" in run_curve(config, [0, 2], 2, output)
    assert asked == [(0, 1), (2, 1)]
    assert len(read_rows(output / "curve.csv")) == len(rows) + 2


def test_bad_input(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = OmegaConf.load(config)
    settings.data = settings.data.init_args.data
    OmegaConf.save(settings, tmp_path / "plain.yaml")
    with pytest.raises(StudyError, match=r"plain\.yaml must be KnownAnomalies, not Folder"):
        run_curve(tmp_path / "plain.yaml", [0, 1], 1, tmp_path / "out")
    for counts in ([], [1, 1], [-1, 1]):
        with pytest.raises(StudyError, match=rf"--counts .*, not \[{', '.join(map(str, counts))}\]"):
            run_curve(config, counts, 1, tmp_path / "out")
    with pytest.raises(StudyError, match="--seeds must be at least 1, not 0"):
        run_curve(config, [1], 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["curve", "--config", "missing.yaml"]) == 2
    assert "--config missing.yaml" in capsys.readouterr().err
