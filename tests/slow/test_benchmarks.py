"""Benchmarks run, and print and write what they say; what they measure is not asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


def test_inference(tmp_path: Path) -> None:
    report = tmp_path / "results.md"
    script = [sys.executable, str(ROOT / "benchmarks" / "inference.py")]
    options = ["--repeats", "2", "--image-size", "64", "--threads", "1", "--report", str(report)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
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
    assert "<!-- begin inference -->" in report.read_text()
    assert set(found["outside"]) == {f"{one}, batch {batch}" for one in ("torch", "OpenVINO") for batch in (1, 16)}
