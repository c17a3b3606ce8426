"""anomalib's own benchmark compares Ckaad with PatchCore and reverse distillation, by the config of the package."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anomalib_ckaad.cli.config import config_path
from tests.mvtec_folder import write_mvtec_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
SHARED = ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Rows of the table that the benchmark writes."""
    root = tmp_path_factory.mktemp("benchmark")
    settings = yaml.safe_load(config_path("benchmark").read_text())
    categories = settings["benchmark"]["data"]["init_args"]["category"]["grid"]
    for category in categories:
        write_mvtec_folder(root / "MVTecAD" / category)
    settings["accelerator"] = "cpu"
    settings["benchmark"]["data"]["init_args"] |= {"root": str(root / "MVTecAD"), "num_workers": 0}
    (root / "benchmark.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "tests.slow.benchmark_offline", str(root / "benchmark.yaml")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=500)
    tables = list(root.glob("runs/benchmark/*/results.csv"))
    assert len(tables) == 1, done.stdout[-3000:] + done.stderr[-3000:]  # its exit status is 0 when jobs fail, too
    with tables[0].open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_model_has_a_row_for_every_category(rows: list[dict[str, str]]) -> None:
    pairs = {(row["model.class_path"], row["data.init_args.category"]) for row in rows}
    models, categories = ("Ckaad", "Patchcore", "ReverseDistillation"), ("bottle", "carpet")
    assert pairs == {(model, category) for model in models for category in categories}
    assert len(rows) == 6


def test_they_share_metrics_and_ckaad_has_more(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for name in SHARED:
            assert 0 <= float(row[name]) <= 1, (row["model.class_path"], name)
        assert bool(row["pixel_AUPRO"]) == (row["model.class_path"] == "Ckaad")
        assert float(row["fit_duration"]) > 0
