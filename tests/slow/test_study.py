"""A study with real trainings: each job in its own process, failures as rows, interrupted and continued."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from anomalib_ckaad.cli import main as cli
from anomalib_ckaad.study.store import FILE_NAME, SCORES, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BACKBONE: dict[str, Any] = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "package",
    "layers": [2, 3],
    "image_size": 64,
}
GROUPS = r"([^/]+/[^/]+)\.png$"  # folder and name: each image by itself


def config_of(folder: Path, *, seeds: Sequence[int] = (0, 1), **methods: Any) -> Path:
    textures = {
        "root": str(folder / "data"),
        "image_size": 64,
        "train_images": 8,
        "validation_images": 4,
        "test_good_images": 4,
        "images_per_defect": 3,
        "train_batch_size": 4,
        "eval_batch_size": 4,
    }
    inner = {"class_path": "anomalib_ckaad.Textures", "init_args": textures}
    known = {"count": 2, "types": ["scratch"], "data": inner, "groups": GROUPS}
    settings = {
        "seeds": list(seeds),
        "data": {"textures": {"class_path": "anomalib_ckaad.KnownAnomalies", "init_args": known}},
        "methods": methods,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


ONE_EPOCH = {"max_epochs": 1}
CKAAD = {
    "class_path": "anomalib_ckaad.Ckaad",
    "init_args": BACKBONE,
    "vary": {"strategy": ["recon", "cka_patch"]},
    "trainer": ONE_EPOCH,
}
PADIM = {
    "class_path": "Padim",
    "init_args": {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False},
}
ENDLESS = {"class_path": "anomalib_ckaad.study.baselines.FeatureHead", "init_args": BACKBONE}
DEVNET = {**ENDLESS, "trainer": ONE_EPOCH}
# Weights of another backbone: found when the model is built.
BROKEN = {**CKAAD, "vary": {}, "init_args": {**BACKBONE, "backbone": "resnet18"}}


def run(config: Path, output: Path, *more: str) -> int:
    return cli.main(["study", "--config", str(config), "--output", str(output), *more])


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All results of jobs, also those that a later try has replaced."""
    with closing(sqlite3.connect(output / FILE_NAME)) as connection:
        return [json.loads(text) for (text,) in connection.execute("SELECT result FROM results ORDER BY rowid")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    assert run(config_of(root, Ckaad=CKAAD, PaDiM=PADIM, DevNet=DEVNET), root / "out", "--jobs", "2") == 0
    return root


def test_every_job_has_a_row_with_what_it_found_and_cost(study: Path) -> None:
    rows = rows_of(study / "out")
    assert len(rows) == 4 * 2
    assert {row["status"] for row in rows} == {"done"}
    for row in rows:
        metrics = row["scores"]["all"]
        for name in ("image_AUROC", "image_AP", "image_F1Score", "pixel_AUROC", "pixel_AUPRO", "mIoU", "mAD"):
            assert 0 <= metrics[name] <= 1, (row["method"], name)
        assert row["seen"] == ["scratch"]
        assert row["known"] == ({} if row["method"] == "PaDiM" else {"scratch": 2})
        assert min(row["seconds_fit"], row["seconds_image"], row["memory_MiB"]) > 0
        assert (study / "out" / row["folder"] / "log.txt").exists()


def test_all_methods_of_a_seed_see_the_same_images_and_no_known_one(study: Path) -> None:
    for seed in (0, 1):
        rows = [row for row in rows_of(study / "out") if row["seed"] == seed]
        tested = [np.load(study / "out" / row["folder"] / SCORES)["paths"].tolist() for row in rows]
        assert all(paths == tested[0] for paths in tested)
        assert sum("/scratch/" in path for path in tested[0]) == 1  # two of three are known
        groups = np.load(study / "out" / rows[0]["folder"] / SCORES)["groups"].tolist()
        assert groups == ["/".join(Path(path).with_suffix("").parts[-2:]) for path in tested[0]]
        assert len({json.dumps(row["images"]) for row in rows}) == 1


def test_scores_are_raw(study: Path) -> None:
    (row,) = [row for row in rows_of(study / "out") if (row["method"], row["seed"]) == ("PaDiM", 0)]
    found = np.load(study / "out" / row["folder"] / SCORES)
    assert found["scores"].max() > 1  # Mahalanobis distances, which anomalib's post-processor puts into [0, 1]
    assert found["threshold"] > 1
    assert found["maps"].max() > 1


def test_a_finished_study_runs_nothing_again_and_a_new_method_alone(study: Path) -> None:
    before = (study / "out" / FILE_NAME).read_bytes()
    assert run(config_of(study, Ckaad=CKAAD, PaDiM=PADIM, DevNet=DEVNET), study / "out") == 0
    assert (study / "out" / FILE_NAME).read_bytes() == before


def test_a_failed_job_is_a_row_with_its_error_and_is_tried_again(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(study / "data")
    config = config_of(tmp_path, seeds=[0], Broken=BROKEN, Endless=ENDLESS, PaDiM=PADIM)
    for round_number in (1, 2):
        assert run(config, tmp_path / "out", "--jobs", "2") == 1
        rows = rows_of(tmp_path / "out")
        failed = {row["method"]: row for row in rows if row["status"] == "failed"}
        assert failed.keys() == {"Broken", "Endless"}
        assert sum(row["status"] == "failed" for row in rows) == 2 * round_number
        assert sum(row["method"] == "PaDiM" for row in rows) == 1  # what is done is not done again
    assert failed["Broken"]["kind"] == "WeightsError"
    assert "resnet18" in failed["Broken"]["error"]
    assert failed["Endless"]["kind"] == "StudyError"
    assert failed["Endless"]["error"].startswith("Endless has no `max_epochs`, so Lightning would train it for 1000")
    said = capsys.readouterr().out
    for row in failed.values():
        assert "\n" not in row["error"]
        log = tmp_path / "out" / row["folder"] / "log.txt"
        assert log.read_text().splitlines()[-1] == row["error"]
        assert f"failed: {row['method']} on textures, seed 0: {log}" in said


def interrupt(config: Path, output: Path, number: signal.Signals, *, ready: Callable[[], bool]) -> None:
    """Start a study in a process of its own, and send it a signal; no process may be left."""
    # Ctrl-C counts, also where these tests run in a shell's background, which ignores it.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeded}; import sys; from anomalib_ckaad.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "study", "--config", str(config), "--output", str(output)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        process.wait(60)
    assert process.returncode != 0
    deadline = time.monotonic() + (10 if number == signal.SIGKILL else 0)  # jobs see that they are alone
    while is_running(output) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(output)


def is_running(output: Path) -> bool:
    return str(output) in subprocess.run(["/bin/ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_leaves_no_process_and_goes_on(
    number: signal.Signals, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(study / "data")
    config, output = config_of(tmp_path, seeds=[0], PaDiM=PADIM), tmp_path / "out"
    interrupt(config, output, number, ready=lambda: any(output.glob("jobs/*/log.txt")))
    assert Store(output).read() == ("small", [])
    assert run(config, output) == 0
    assert [row["seed"] for row in rows_of(output)] == [0]


def test_a_killed_study_loses_no_result_and_goes_on_with_the_same_scores(study: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(study / "data")
    config, output = config_of(tmp_path, DevNet=DEVNET), tmp_path / "out"
    # Within the second job.
    interrupt(config, output, signal.SIGKILL, ready=lambda: len(list(output.glob("jobs/*/log.txt"))) == 2)
    (first,) = rows_of(output)
    assert run(config, output) == 0
    kept, added = rows_of(output)
    assert kept == first
    again = {row["seed"]: row["scores"] for row in (kept, added)}
    before = {row["seed"]: row["scores"] for row in rows_of(study / "out") if row["method"] == "DevNet"}
    assert again == before
    assert before[0] != before[1]
