"""What the documentation tells to type works as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DOCS = Path(__file__).parents[2] / "docs"


def run_here(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder, with the commands of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def shell(commands: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run lines for a shell in a folder; the first that fails ends them."""
    return run_here(["/bin/bash", "-ec", commands], folder)


def test_known_anomalies_from_start_to_finish(tmp_path: Path) -> None:
    text = (DOCS / "known_anomalies.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    commands = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert len(commands) == 4
    (tmp_path / "known.yaml").write_text(config)
    folders = {"good": 12, "known/scratch": 3, "test_good": 3, "test_bad/scratch": 3, "test_bad/dent": 3}
    for folder, count in folders.items():
        write_images(tmp_path / "line" / folder, count, size=96, seed=len(folder))
    outputs = []
    for command in commands:
        if "warm_start" in command:
            write_images(tmp_path / "line" / "known" / "dent", 2, size=96, seed=99)
        done = shell(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(re.sub(r"\s+", " ", done.stdout + done.stderr))
    assert "3 known anomalies (3 scratch)" in outputs[0]
    assert "With 2 known anomalies instead of 0" in outputs[1]
    assert "5 known anomalies (2 dent, 3 scratch)" in outputs[2]
    results = tmp_path / "results" / "Ckaad" / "line"
    metrics = json.loads((results / "v0" / "weights" / "lightning" / "metrics.json").read_text())["metrics"]
    assert metrics["seen_image_AUROC"] == metrics["type_scratch_image_AUROC"]
    assert metrics["unseen_image_AUROC"] == metrics["type_dent_image_AUROC"]
    assert list((results / "latest" / "images").rglob("*.png"))


def test_thresholds(tmp_path: Path) -> None:
    text = (DOCS / "thresholds.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "bash", "python"]
    for folder, count in {"good": 24, "test_good": 4, "test_bad": 4}.items():
        write_images(tmp_path / "line" / folder, count, size=96, seed=len(folder))
    outputs = []
    for kind, block in blocks:
        command = ["/bin/bash", "-c", block] if kind == "bash" else [sys.executable, "-c", block]
        done = run_here(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(re.sub(r"\s+", " ", done.stdout + done.stderr))
    needed = "`image_false_positive_rate` of 0.05 needs at least 19 normal validation images, and there are 12."
    assert needed in outputs[0]
    assert list((tmp_path / "exported").rglob("model.onnx"))
    thresholds = []
    for checkpoint in (*(tmp_path / "results").rglob("v0/**/model.ckpt"), tmp_path / "line.ckpt"):
        content = torch.load(checkpoint, weights_only=True)
        thresholds.append(content["state_dict"]["post_processor._image_threshold"].item())
        assert content["anomalib_post_processor_config"]["image_false_positive_rate"] in {0.05, 0.2}
    assert len(thresholds) == 2
    assert thresholds[0] > thresholds[1]  # 13 * 0.05 lets no image exceed it, 13 * 0.2 the new one and one more


def test_studies(tmp_path: Path) -> None:
    text = (DOCS / "studies.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    command, benchmark = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert benchmark.startswith("anomalib benchmark --config")  # downloads: tests/slow/test_benchmark.py runs it
    (tmp_path / "study.yaml").write_text(config.replace("seeds: 3", "seeds: [0]"))
    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 jobs are done" in done.stdout
    report = (tmp_path / "results" / "study" / "study" / "report.md").read_text(encoding="utf-8")
    for words in (
        "scratch (seen)",
        "mean of unseen types",
        "paired differences",
        "Ckaad strategy=cka_patch",
        "mIoU-max",
    ):
        assert words in report
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict[str, Any] = {}
    exec(snippet, made)  # noqa: S102 - the documentation's own
    assert [metric.name for metric in made["metrics"]] == [
        "pixel_StreamingAUPRO",
        "pixel_mIoU",
        "macro_image_AccuracyAtF1Max",
    ]
