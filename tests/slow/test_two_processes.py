"""Two processes train as one does with twice the batch, and share the known anomalies out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import write_images
from tests.slow.two_processes import EACH, results, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HERE = Path(__file__).parents[2]


Run = tuple[list[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ddp")
    for name, count in (("good", 16), ("test_good", 2), ("test_bad", 2), ("known/scratch", 5)):
        write_images(root / name, count, size=64)
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> Run:
    """What two processes did, which share a folder of features, and what one did with their batches and without it."""
    command = [sys.executable, "-m", "tests.slow.two_processes", *(root / name for name in ("", "two", "features"))]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    train(root, root / "one", earlier=root / "two")
    return results(root / "two", devices=2), results(root / "one", devices=1)[0]


def names(paths: list[str], folder: str) -> list[str]:
    return [Path(path).name for path in paths if Path(path).parent.name == folder]


def test_images_are_shared_out(runs: Run) -> None:
    (first, second), _ = runs
    normal, known = [], []
    for steps in zip(first["steps"], second["steps"], strict=True):
        for step in steps:
            assert len(names(step["paths"], "good")) == len(names(step["paths"], "scratch")) == EACH
            normal += names(step["paths"], "good")
            known += names(step["paths"], "scratch")
    assert len(normal) == len(set(normal)) == 3 * 2 * EACH
    assert len(set(known[:5])) == 5  # all five before one comes again
    assert len(set(known[5:10])) == 5


def test_same_losses_and_weights_as_one_process(runs: Run) -> None:
    two, one = runs
    for step in range(3):
        for name, expected in one["steps"][step]["losses"].items():
            values = [process["steps"][step]["losses"][name] for process in two]
            assert sum(values) / 2 == pytest.approx(expected, rel=1e-6), (step, name)
    for name, expected in one["weights"].items():
        # Moments of a dozen images have directions that are all but empty: their inverse magnifies the last digits.
        nearly_zero = 1e-5 * float(expected.abs().max()) if "whitening" in name else 1e-9
        for process in two:
            # Thresholds are NaN without validation.
            torch.testing.assert_close(process["weights"][name], expected, rtol=1e-6, atol=nearly_zero, equal_nan=True)
    assert one["weights"]["model.calibration.whitening_1"].numel()
    normal = one["images"] - 5  # all that are trained on, not the half that a process looks at
    assert all(
        float(run["weights"]["model.calibration.share"]) == pytest.approx(normal / (normal + 64)) for run in (one, *two)
    )


def test_features_are_shared(runs: Run, root: Path) -> None:
    """Both wrote to one folder, each image once; a third one that reads it computes nothing, and finds the same."""
    (folder,) = [path for path in (root / "features").glob("*") if path.is_dir()]
    (first, second), one = runs
    seen = {path for process in (first, second) for step in process["steps"] for path in step["paths"]}
    # Calibration looks at the images that three steps did not.
    assert len(list(folder.rglob("[!.]*.safetensors"))) == first["images"] > len(seen)
    assert not list(folder.rglob("*.part"))
    train(root, root / "reader", features=root / "features", earlier=root / "two")
    (reader,) = results(root / "reader", devices=1)
    assert reader["computed"] == 0
    assert [step["losses"] for step in reader["steps"]] == [
        pytest.approx(step["losses"], rel=1e-9) for step in one["steps"]
    ]


def test_weights_have_moved(runs: Run) -> None:
    two, _ = runs
    losses = [step["losses"]["reconstruction"] for step in two[0]["steps"]]
    assert losses[2] < losses[0]
