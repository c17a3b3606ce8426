"""A study's config becomes jobs, or one sentence that says what is wrong with it."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.study import run_job
from anomalib_ckaad.study.jobs import Job, Study, read_study
from anomalib_ckaad.study.runner import _about, _result, _Running, _start, check_jobs, run_study
from anomalib_ckaad.study.store import Store

CONFIG: dict[str, Any] = {
    "seeds": [3, 5],
    "trainer": {"precision": "bf16-mixed", "max_epochs": 2},
    "data": {
        "tile": {
            "class_path": "anomalib_ckaad.KnownAnomalies",
            "init_args": {"data": {"class_path": "Folder", "init_args": {"name": "tile", "root": "nowhere"}}},
            "vary": {"count": [2, 4]},
        },
        "textures": {"class_path": "anomalib_ckaad.Textures", "init_args": {"seed": 9}},
    },
    "methods": {
        "Ckaad": {
            "class_path": "anomalib_ckaad.Ckaad",
            "init_args": {"layers": [2, 3]},
            "vary": {"strategy": ["recon", "gan"], "norm": ["instance", "batch"]},
            "trainer": {"max_epochs": 5},
        },
        "PaDiM": {"class_path": "Padim", "use": "drop"},
    },
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
    return path


def test_every_combination_is_a_job(tmp_path: Path) -> None:
    study = read_study(write(tmp_path))
    assert study.name == "mine"
    assert len(study.jobs) == len({job.name for job in study.jobs}) == 3 * 2 * 5
    assert len({job.folder for job in study.jobs}) == 30
    assert {job.data for job in study.jobs} == {"tile count=2", "tile count=4", "textures"}
    assert {job.method for job in study.jobs if "batch" in job.method} == {
        "Ckaad strategy=recon norm=batch",
        "Ckaad strategy=gan norm=batch",
    }
    job = next(job for job in study.jobs if job.name == ("Ckaad strategy=gan norm=batch", "tile count=4", 5))
    assert job.settings["model"]["init_args"] == {"layers": [2, 3], "strategy": "gan", "norm": "batch"}
    assert job.settings["trainer"] == {"precision": "bf16-mixed", "max_epochs": 5}
    assert job.settings["data"]["init_args"]["count"] == 4
    assert study.jobs[-1].settings["use"] == "drop"


def test_all_methods_share_a_seeds_splits(tmp_path: Path) -> None:
    for job in read_study(write(tmp_path)).jobs:
        given = job.settings["data"]["init_args"]
        if job.data == "textures":
            assert given["seed"] == 9  # the config's own
        else:
            assert given["seed"] == given["data"]["init_args"]["seed"] == job.seed


def test_a_changed_setting_changes_the_fingerprint(tmp_path: Path) -> None:
    first = read_study(write(tmp_path)).jobs
    again = read_study(write(tmp_path)).jobs
    other = read_study(write(tmp_path, trainer={"max_epochs": 3})).jobs
    assert [job.fingerprint for job in first] == [job.fingerprint for job in again]
    changed = {job.method for job, new in zip(first, other, strict=True) if job.fingerprint != new.fingerprint}
    assert "PaDiM" in changed


def test_a_number_of_seeds(tmp_path: Path) -> None:
    assert {job.seed for job in read_study(write(tmp_path, seeds=3)).jobs} == {0, 1, 2}


ONE = {"class_path": "Padim"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, r"^Expected seeds to be a number of at least 1 or a list of whole numbers, got 0\. Do"),
        ({"seeds": [True]}, r"^Expected seeds to be a number .* got \[True\]\. Do"),
        ({"seeds": [1, 1]}, r"^Expected different seeds, got \[1, 1\]\. Do"),
        ({"seeds": "many"}, r"^Expected seeds to be a number .* got 'many'\. Do"),
        ({"method": ONE}, r"^Expected the study to have data, methods, name, seeds, trainer, got method\. Do"),
        ({"methods": {}}, r"^Expected the study to have .* got no methods\. Do"),
        ({"methods": [ONE]}, r"^Expected methods by name to be a mapping .* Do correct it\.$"),
        ({"methods": {"a": {"init_args": {}}}}, r"^Expected method a to have .* got no class_path\. Do"),
        ({"methods": {"a": {**ONE, "args": {}}}}, r"^Expected method a to have .* got args\. Do"),
        ({"trainer": "fast"}, r"^Expected trainer to be arguments by name, got 'fast'\. Do"),
        ({"methods": {"a": {**ONE, "init_args": [1]}}}, r"^Expected init_args of method a to be arguments by name"),
        ({"methods": {"a": {**ONE, "trainer": 3}}}, r"^Expected trainer of method a to be arguments by name, got 3\."),
        ({"methods": {"a": {**ONE, "vary": {"n": [5, 5]}}}}, r"^Expected a name of its own for each job, got a n=5 on"),
        (
            {"methods": {"a": {**ONE, "use": ["drop"]}}},
            r"^Expected use of method a to be train or drop, got \['drop'\]",
        ),
        (
            {"data": {"a": {**ONE, "init_args": {"data": {"init_args": {}}}}}},
            r"^Expected the inner data to have class_",
        ),
        (
            {"data": {"a": {**ONE, "init_args": {"data": {**ONE, "init_args": [1]}}}}},
            r"^Expected the inner data to have",
        ),
        ({"methods": {"a": {**ONE, "use": "all"}}}, r"^Expected use of method a to be train or drop, got 'all'\. Do"),
        ({"data": {"a": {**ONE, "vary": {"count": 3}}}}, r"^Expected vary of data set a to give lists of values"),
    ],
)
def test_a_config_that_is_none(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["a: [", "a: ${oc.env:NO_SUCH_VARIABLE_HERE}"])
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"^Expected --config to be a YAML file, got .*bad\.yaml' \(.*\)\. Do correct"):
        read_study(path)


def job_of(model: dict[str, Any], data: dict[str, Any]) -> Job:
    return Job("m", "d", 0, {"model": {"init_args": {}, **model}, "data": {"init_args": {}, **data}, "trainer": {}})


TEXTURES = {"class_path": "anomalib_ckaad.Textures"}
KNOWN = "anomalib_ckaad.KnownAnomalies"


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            {"class_path": "Nothing"},
            TEXTURES,
            r"^Expected arguments of Nothing for 'm', got .* there is no such",
        ),
        ({**ONE, "init_args": {"x": 1}}, TEXTURES, r"of Padim for 'm', got a mistake: Option 'x' is not accepted\. Do"),
        (
            {"class_path": "anomalib_ckaad.Ckaad", "init_args": {"margin": "wide"}},
            TEXTURES,
            r"of anomalib_ckaad\.Ckaad for 'm', got a mistake: .*margin.*float",
        ),
        (
            {**ONE, "init_args": {"n_features": "many"}},
            TEXTURES,
            r"of Padim for 'm', got a mistake: n_features has to be int or null, got many\. Do",
        ),
        (
            ONE,
            {"class_path": KNOWN, "init_args": {"data": TEXTURES, "count": "few"}},
            r"for 'd', got a mistake: count has to be int or null, got few\. Do",
        ),
        (
            {"class_path": "anomalib_ckaad.Ckaad", "init_args": {"strategy": "best"}},
            TEXTURES,
            r"a mistake: strategy has to be 'cka_patch', .*, got best\. Do",
        ),
        (
            ONE,
            {
                "class_path": "Folder",
                "init_args": {"name": "x", "normal_dir": "good", "val_split_mode": "zz"},
            },
            r"^Expected .*zz.* Do correct it\. \(data set 'd'\)$",
        ),
        (
            {"class_path": "os.path.join"},
            TEXTURES,
            r"of os\.path\.join for 'm', got a mistake: .{,80}\. Do correct it\.$",
        ),
        (
            ONE,
            {"class_path": KNOWN, "init_args": {"data": {"class_path": "Folder", "init_args": {"y": 2}}}},
            r"of Folder for 'd', got a mistake: Option 'y' is not accepted\. Do",
        ),
        (
            ONE,
            {"class_path": KNOWN, "init_args": {"data": {"class_path": "Foldr"}}},
            r"of Foldr for 'd', got a mistake: there is no such class\. Do",
        ),
        (ONE, {"class_path": "Folder", "init_args": {"y": 2}}, r"of Folder for 'd', got a mistake: Option 'y' is not"),
        (
            ONE,
            {"class_path": "Folder", "init_args": {"name": "x", "normal_dir": "good", "root": "/no/where"}},
            r"^Expected the data set 'd' in '/no/where', got no such folder\. Do correct root\.$",
        ),
    ],
)
def test_unknown_methods_arguments_and_data(model: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_jobs([job_of(model, data)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": "no_such.csv"}, r"^Expected groups to be a file, got no_such\.csv.*\(data set 'd'\)$"),
        ({"count": -2}, r"^Expected .*count.*-2.*\(data set 'd'\)$"),
    ],
)
def test_known_anomalies_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    data = {"class_path": "anomalib_ckaad.KnownAnomalies", "init_args": {"data": TEXTURES, **arguments}}
    with pytest.raises(StudyError, match=message):
        check_jobs([job_of(ONE, data)])


@pytest.mark.parametrize(("written", "status"), [({"scores": {}}, "done"), ({"error": "no"}, "failed")])
def test_a_result_counts_however_its_process_ended(written: dict[str, Any], status: str, tmp_path: Path) -> None:
    """Leaving a process may fail, of libraries' threads or of memory, long after the result is on disk."""
    folder = tmp_path / "jobs" / "one"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(written))
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with (folder / "log.txt").open("w") as log:
        row = _result(_Running(job_of(ONE, TEXTURES), process, folder, log, "cpu"))
    assert (row["status"], row.get("error")) == (status, written.get("error"))


def run_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, interrupted: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the one job of a study without training; its results, and the names of the jobs that were run."""
    run_names = []

    def run_all(study: Study, missing: list[Job], store: Store, *_: Any) -> None:
        if interrupted:
            raise KeyboardInterrupt
        for job in missing:
            run_names.append(job.method)
            folder = store.folder / "jobs" / job.folder
            folder.mkdir(parents=True, exist_ok=True)
            cost = {"seconds": 7.0, "seconds_fit": 1.0, "seconds_image": 0.1, "memory_MiB": 9.0, "threads": 1}
            about = {"seen": [], "known": {}, "images": {"train": 1, "test": 2}, "machine": "some"}
            result = {"scores": {"all": {"image_AUROC": len(run_names) / 10}}, **about, **cost}
            (folder / "job.json").write_text(json.dumps(asdict(job)))
            (folder / "scores.npz").write_text("")
            (folder / "result.json").write_text(json.dumps(result))
            store.append(study.name, {**_about(job, folder), "status": "done", **result})

    monkeypatch.setattr("anomalib_ckaad.study.runner._run_all", run_all)
    config = write(tmp_path, seeds=1, data={"textures": TEXTURES}, methods={"PaDiM": ONE})
    return run_study(config, tmp_path / "out"), run_names


def test_a_result_that_a_full_disk_kept_out_of_the_store_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, run_names = run_small(monkeypatch, tmp_path)
    assert run_names == ["PaDiM"]
    store = tmp_path / "out" / "study.jsonl"
    store.write_text("".join(store.read_text().splitlines(keepends=True)[:2]))  # name and plan
    begun = store.read_text()
    again, run_names = run_small(monkeypatch, tmp_path)
    assert run_names == []
    assert again[0]["seconds"] == first[0]["seconds"] == 7
    (result,) = tmp_path.glob("out/jobs/*/result.json")
    for damaged in ("", "{", "3", "null", '{"scores": {}}'):
        store.write_text(begun)
        result.write_text(damaged)
        assert run_small(monkeypatch, tmp_path)[1] == ["PaDiM"]
    store.write_text(begun)
    result.with_name("scores.npz").unlink()
    assert run_small(monkeypatch, tmp_path)[1] == ["PaDiM"]


def test_a_study_whose_store_was_deleted_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_small(monkeypatch, tmp_path)
    (tmp_path / "out" / "study.jsonl").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # interrupted before its first job is done
        run_small(patch, tmp_path, interrupted=True)
    assert run_small(monkeypatch, tmp_path)[1] == ["PaDiM"]


def test_a_job_on_a_full_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        message = "unexpected pos 64 vs 0"
        raise RuntimeError(message)

    monkeypatch.setattr(run_job, "run", fail)
    (tmp_path / "job.json").write_text(json.dumps(asdict(job_of(ONE, TEXTURES))))
    arguments = [str(tmp_path / "job.json"), str(tmp_path / "result.json")]
    for free, expected in (
        (2**30, "RuntimeError: unexpected pos"),
        (0, f"Expected room on the disk of {tmp_path}, got"),
    ):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(SystemExit) as ended:
            run_job.main(arguments)
        assert str(ended.value).startswith(expected)
        assert "RuntimeError" in capsys.readouterr().err
        assert json.loads((tmp_path / "result.json").read_text()) == {"error": str(ended.value)}


def test_what_an_earlier_try_left_is_gone(tmp_path: Path) -> None:
    job = job_of({"class_path": "Nothing"}, TEXTURES)
    left = tmp_path / "jobs" / job.folder / "weights" / "model.ckpt"
    left.parent.mkdir(parents=True)
    left.write_text("half of it")
    running = _start(job, tmp_path, "cpu", threads=1)
    try:
        assert not left.exists()
        assert json.loads((running.folder / "job.json").read_text())["method"] == "m"
    finally:
        running.process.kill()
        running.process.wait()
        running.log.close()


def test_a_log_that_a_full_disk_has_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jobs" / "one"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("Traceback (most recent call last):\n  Fi")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    process.wait()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with (folder / "log.txt").open("a") as log:
        row = _result(_Running(job_of(ONE, TEXTURES), process, folder, log, "cpu"))
    assert row["status"] == "failed"
    assert re.match(
        r"Expected room on the disk of .*, got none left .*\. Do make room, and start again\.$", row["error"]
    )


@pytest.mark.parametrize("name", ["max_epoch", "default_root_dir"])
def test_an_argument_that_the_trainer_cannot_have(name: str) -> None:
    fine, job = job_of(ONE, TEXTURES), job_of(ONE, TEXTURES)
    job.settings["trainer"][name] = 3  # type: ignore[index]
    with pytest.raises(StudyError, match=rf"^Expected arguments of Lightning's trainer for m, got {name}\. Do"):
        check_jobs([fine, job])


def test_a_value_that_the_trainer_cannot_have() -> None:
    job = job_of(ONE, TEXTURES)
    job.settings["trainer"]["max_epochs"] = "many"  # type: ignore[index]
    with pytest.raises(
        StudyError, match=r"trainer for m, got a mistake: max_epochs has to be int or null, got many\. Do"
    ):
        check_jobs([job])


@pytest.mark.parametrize("devices", [["gpu"], ["0", ""], []])
def test_devices_that_are_none(devices: list[str], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^Expected a job or more, and cpu or numbers of GPUs as devices, got"):
        run_study(write(tmp_path), tmp_path / "out", devices=devices)
    assert not (tmp_path / "out").exists()


def test_checking_leaves_a_job_as_it_is() -> None:
    transforms = [{"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [8, 8]}}]
    compose = {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": transforms}}
    pre_processor = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": compose}}
    job = job_of({**ONE, "init_args": {"pre_processor": pre_processor}}, TEXTURES)
    before = job.fingerprint
    check_jobs([job])
    assert job.fingerprint == before
