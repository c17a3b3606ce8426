"""A line for each known type of a study: who finds how much of it, and what the other types gain or lose."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from anomalib_ckaad.study.jobs import Job
from anomalib_ckaad.study.results import Results
from tests.test_study_report import write_job

METHODS = {
    "PaDiM": (0.80, 0),
    "PatchCore": (0.85, 0),
    "Ckaad": (0.90, 4),
    "Ckaad, nothing known": (0.70, 0),
    "DevNet": (0.60, 4),
}


def write(folder: Path, names: tuple[str, ...] = tuple(METHODS)) -> Path:
    for seed in range(2):
        for name in names:
            auroc, known = METHODS[name]
            write_job(folder, Job(name, "tile", seed, {}), np.zeros(30), auroc + seed / 50, known)
    return folder


@pytest.fixture(autouse=True)
def beside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


def test_known_and_other_types_are_told_apart(tmp_path: Path) -> None:
    rows = list(importlib.import_module("known_types").rows_of(Results.read(write(tmp_path))))
    assert [row["metric"] for row in rows] == ["image AUROC", "AUPRO"]
    assert rows[0] == {  # cracks are known, and 5 points easier than holes
        "data: known type": "tile: crack",
        "metric": "image AUROC",
        "known: best without knowledge": "PatchCore 91.0 ± 1.4",
        "known: Ckaad, nothing known": "76.0 ± 1.4",
        "known: Ckaad": "96.0 ± 1.4",
        "known: DevNet": "66.0 ± 1.4",
        "known: Deep SAD": "",
        "others: Ckaad, nothing known": "71.0 ± 1.4",
        "others: Ckaad": "91.0 ± 1.4",
    }


def test_it_is_written_or_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("known_types")
    whole, part = write(tmp_path / "whole"), write(tmp_path / "part", ("PaDiM", "Ckaad"))
    report = tmp_path / "report.md"
    monkeypatch.setattr(sys, "argv", ["known_types.py", str(whole), "--report", str(report)])
    module.main()
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]) == 2
    assert "<!-- begin known-types -->" in report.read_text()
    monkeypatch.setattr(sys, "argv", ["known_types.py", str(part)])
    with pytest.raises(SystemExit):
        module.main()
    assert "Expected Ckaad with and without some known types" in capsys.readouterr().err
