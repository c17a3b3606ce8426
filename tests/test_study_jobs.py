"""A study's config becomes jobs, or an error that says what is wrong with it; a job that fails says why."""

import errno
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from anomalib_ckaad.errors import CkaadError, DataError, StudyError
from anomalib_ckaad.study import run_job
from anomalib_ckaad.study.checks import check_jobs
from anomalib_ckaad.study.failures import failure_of
from anomalib_ckaad.study.jobs import Job, Study, read_study
from anomalib_ckaad.study.process import JobProcess, describe
from anomalib_ckaad.study.runner import run_study
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
        ({"seeds": 0}, r"`seeds` .*at least 1.*, not 0\."),
        ({"seeds": [True]}, r"`seeds` .*, not \[True\]\."),
        ({"seeds": [1, 1]}, r"`seeds` has a seed twice: \[1, 1\]"),
        ({"seeds": "many"}, r"`seeds` .*, not 'many'\."),
        ({"method": ONE}, r"study has unknown keys: method\. .*data, methods, name, seeds, trainer\.$"),
        ({"methods": {}}, r"study lacks methods\."),
        ({"methods": [ONE]}, r"methods by name must be a mapping, not \[.*Padim.*\]\.$"),
        ({"methods": {"a": {"init_args": {}}}}, r"method a lacks class_path\."),
        ({"methods": {"a": {**ONE, "args": {}}}}, r"method a has unknown keys: args\. .*init_args"),
        ({"trainer": "fast"}, r"`trainer` must be a mapping .*, not 'fast'\."),
        ({"methods": {"a": {**ONE, "init_args": [1]}}}, r"`init_args` of the method a must be a mapping .* not \[1\]"),
        ({"methods": {"a": {**ONE, "trainer": 3}}}, r"`trainer` of the method a must be a mapping .*, not 3\."),
        ({"methods": {"a": {**ONE, "vary": {"n": [5, 5]}}}}, r"the same name: a n=5 on"),
        ({"methods": {"a": {**ONE, "use": ["drop"]}}}, r"`use` of the method a must be train or drop, not \['drop'\]"),
        (
            {"data": {"a": {**ONE, "init_args": {"data": {"init_args": {}}}}}},
            r"must have class_path .*, not {'init_args'",
        ),
        (
            {"data": {"a": {**ONE, "init_args": {"data": {**ONE, "init_args": [1]}}}}},
            r"must have class_path and init_args, not {'class_path': 'Padim', 'init_args': \[1\]}",
        ),
        ({"methods": {"a": {**ONE, "use": "all"}}}, r"`use` of the method a must be train or drop, not 'all'\."),
        (
            {"data": {"a": {**ONE, "vary": {"count": 3}}}},
            r"`vary` of the data set a .*lists of values, not {'count': 3}",
        ),
    ],
)
def test_a_config_that_is_none(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["a: [", "a: ${oc.env:NO_SUCH_VARIABLE_HERE}"])
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"config '.*bad\.yaml': .*(line 2|NO_SUCH_VARIABLE_HERE)"):
        read_study(path)


def job_of(model: dict[str, Any], data: dict[str, Any]) -> Job:
    return Job("m", "d", 0, {"model": {"init_args": {}, **model}, "data": {"init_args": {}, **data}, "trainer": {}})


TEXTURES = {"class_path": "anomalib_ckaad.Textures"}
KNOWN = "anomalib_ckaad.KnownAnomalies"


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"class_path": "Nothing"}, TEXTURES, r"^Nothing of 'm' .*: there is no class Nothing\. "),
        ({"class_path": "anomalib.Nothing"}, TEXTURES, r"^anomalib\.Nothing of 'm' .*: .*no attribute 'Nothing'\. "),
        ({**ONE, "init_args": {"x": 1}}, TEXTURES, r"^Padim of 'm' .*: Option 'x' is not accepted\. "),
        (
            {"class_path": "anomalib_ckaad.Ckaad", "init_args": {"learning_rate": "fast"}},
            TEXTURES,
            r"^anomalib_ckaad\.Ckaad of 'm' .*: `learning_rate` must be float or null, not fast\. ",
        ),
        (
            {**ONE, "init_args": {"n_features": "many"}},
            TEXTURES,
            r"^Padim of 'm' .*`n_features` .*int or null, not many",
        ),
        (
            ONE,
            {"class_path": KNOWN, "init_args": {"data": TEXTURES, "count": "few"}},
            r"KnownAnomalies of 'd' .*: `count` must be int or null, not few\. ",
        ),
        (
            {"class_path": "anomalib_ckaad.Ckaad", "init_args": {"strategy": "best"}},
            TEXTURES,
            r"`strategy` must be 'cka_patch', .*, not best\. ",
        ),
        (
            ONE,
            {"class_path": "Folder", "init_args": {"name": "x", "normal_dir": "good", "val_split_mode": "zz"}},
            r"^Data set 'd' .*'zz' is not a valid ValSplitMode\. ",
        ),
        (
            {"class_path": "os.path.join"},
            TEXTURES,
            r"^os\.path\.join of 'm' .*: .{,80} subclass of AnomalibModule\. [^.]*\.$",
        ),
        (
            ONE,
            {"class_path": KNOWN, "init_args": {"data": {"class_path": "Folder", "init_args": {"y": 2}}}},
            r"^Folder of 'd' .*: Option 'y' is not accepted\. ",
        ),
        (
            ONE,
            {"class_path": KNOWN, "init_args": {"data": {"class_path": "Foldr"}}},
            r"^Foldr of 'd' .*: there is no class Foldr\. ",
        ),
        (ONE, {"class_path": "Folder", "init_args": {"y": 2}}, r"^Folder of 'd' .*: Option 'y' is not accepted\. "),
        (
            ONE,
            {"class_path": "Folder", "init_args": {"name": "x", "normal_dir": "good", "root": "/no/where"}},
            r"^Data set 'd': .* '/no/where'\. .*`root`\.$",
        ),
    ],
)
def test_unknown_methods_arguments_and_data(model: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        check_jobs([job_of(model, data)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": "no_such.csv"}, r"^Data set 'd': .*groups.* no_such\.csv"),
        ({"count": -2}, r"^Data set 'd': .*count.*-2"),
    ],
)
def test_known_anomalies_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    data = {"class_path": KNOWN, "init_args": {"data": TEXTURES, **arguments}}
    with pytest.raises(StudyError, match=message) as caught:
        check_jobs([job_of(ONE, data)])
    # The error of the data set itself, without jsonargparse's words around it.
    assert isinstance(caught.value.__cause__, CkaadError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", [{"kind": "StudyError", "error": "X"}, {"kind": "KeyError", "error": "no"}])
def test_a_failure_reaches_the_store_as_it_was_handed_over(written: dict[str, str], tmp_path: Path) -> None:
    one = ended(tmp_path, 1)
    (one.folder / "result.json").write_text(json.dumps(written))
    row = one.result()
    assert (row["status"], row["error"], row["kind"]) == ("failed", written["error"], written["kind"])


def test_the_message_of_an_own_error_is_the_reason() -> None:
    here = Path()
    assert failure_of(StudyError("X is\nwrong."), here) == ("StudyError", "X is wrong.")
    assert failure_of(KeyError("x"), here) == ("KeyError", "KeyError: 'x'")
    outer = RuntimeError("something failed")
    outer.__cause__ = DataError("X has no images.")
    assert failure_of(outer, here) == ("DataError", "X has no images.")
    # As torch hands over what a worker of a DataLoader has raised.
    from_worker = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 3\nanomalib_ckaad.errors.DataError: X has no images.\n'
    )
    assert failure_of(from_worker, here) == ("DataError", "X has no images.")


def ended(folder: Path, status: int, log_text: str = "") -> JobProcess:
    """A job whose process has ended, with its log."""
    place = folder / "jobs" / "one"
    place.mkdir(parents=True)
    (place / "log.txt").write_text(log_text)
    process = subprocess.Popen(["/bin/sh", "-c", f"exit {status}"], stdin=subprocess.PIPE)
    process.wait()
    return JobProcess(job_of(ONE, TEXTURES), process, place, (place / "log.txt").open("a"), "cpu")


@pytest.mark.parametrize(("written", "status"), [({"scores": {}}, "done"), ({"error": "no"}, "failed")])
def test_a_result_counts_however_its_process_ended(written: dict[str, Any], status: str, tmp_path: Path) -> None:
    """Leaving a process may fail, of libraries' threads or of memory, long after the result is on disk."""
    one = ended(tmp_path, 3)
    (one.folder / "result.json").write_text(json.dumps(written))
    row = one.result()
    assert (row["status"], row.get("error")) == (status, written.get("error"))
    assert one.log.closed


def test_a_process_that_left_no_result(tmp_path: Path) -> None:
    row = ended(tmp_path, 3, "".join(f"line {number}\n" for number in range(99))).result()
    assert row["status"] == "failed"
    assert row["error"].splitlines() == ["The process ended with status 3.", *(f"line {n}" for n in range(84, 99))]


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
            store.append(study.name, {**describe(job, folder), "status": "done", **result})

    monkeypatch.setattr("anomalib_ckaad.study.runner.run_jobs", run_all)
    config = write(tmp_path, seeds=1, data={"textures": TEXTURES}, methods={"PaDiM": ONE})
    return run_study(config, tmp_path / "out"), run_names


def test_a_result_that_a_full_disk_kept_out_of_the_store_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, run_names = run_small(monkeypatch, tmp_path)
    assert run_names == ["PaDiM"]
    store = tmp_path / "out" / "study.sqlite"
    with closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute("DELETE FROM results").rowcount == 1  # name and plan stay
    begun = store.read_bytes()
    again, run_names = run_small(monkeypatch, tmp_path)
    assert run_names == []
    assert again[0]["seconds"] == first[0]["seconds"] == 7
    (result,) = tmp_path.glob("out/jobs/*/result.json")
    for damaged in ("", "{", "3", "null", '{"scores": {}}'):
        store.write_bytes(begun)
        result.write_text(damaged)
        assert run_small(monkeypatch, tmp_path)[1] == ["PaDiM"]
    store.write_bytes(begun)
    result.with_name("scores.npz").unlink()
    assert run_small(monkeypatch, tmp_path)[1] == ["PaDiM"]


def test_a_study_whose_store_was_deleted_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_small(monkeypatch, tmp_path)
    (tmp_path / "out" / "study.sqlite").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # interrupted before its first job is done
        run_small(patch, tmp_path, interrupted=True)
    assert run_small(monkeypatch, tmp_path)[1] == ["PaDiM"]


@pytest.mark.parametrize(
    ("error", "free", "expected"),
    [
        (RuntimeError("unexpected pos 64 vs 0"), 2**30, "RuntimeError: unexpected pos 64 vs 0"),
        (RuntimeError("unexpected pos 64 vs 0"), 0, "The disk of {} is full (RuntimeError: unexpected pos 64 vs 0)."),
        (OSError(errno.ENOSPC, "No space"), 2**30, "The disk of {} is full (OSError: [Errno 28] No space)."),
        (OSError(errno.EACCES, "No space"), 2**30, "PermissionError: [Errno 13] No space"),
        (StudyError("X is wrong."), 2**30, "X is wrong."),
    ],
)
def test_why_a_job_failed_is_in_its_result_and_ends_its_log(
    error: Exception,
    free: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(run_job, "run", fail)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    (tmp_path / "job.json").write_text(json.dumps(asdict(job_of(ONE, TEXTURES))))
    with pytest.raises(SystemExit) as ended:
        run_job.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")])
    assert str(ended.value).startswith(expected.format(tmp_path))
    assert "Traceback" in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "kind": type(error).__name__,
        "error": str(ended.value),
    }


def test_a_failure_that_a_full_disk_keeps_from_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_job, "run", fail)
    (tmp_path / "job.json").write_text(json.dumps(asdict(job_of(ONE, TEXTURES))))
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(SystemExit, match=r"The disk of .* is full"):
        run_job.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_what_an_earlier_try_left_is_gone(tmp_path: Path) -> None:
    job = job_of({"class_path": "Nothing"}, TEXTURES)
    left = tmp_path / "jobs" / job.folder / "weights" / "model.ckpt"
    left.parent.mkdir(parents=True)
    left.write_text("half of it")
    running = JobProcess.start(job, tmp_path, "cpu", threads=1)
    try:
        assert not left.exists()
        assert json.loads((running.folder / "job.json").read_text())["method"] == "m"
    finally:
        running.stop()
    assert running.process.returncode is not None
    assert running.log.closed


def test_a_job_ends_when_its_study_is_gone(tmp_path: Path) -> None:
    program = "import os, threading, time; from anomalib_ckaad.study.process import end_with_study; "
    program += (
        "threading.Thread(target=end_with_study, daemon=True).start(); print('begun', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 1


def test_a_log_that_a_full_disk_has_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    row = ended(tmp_path, 1, "Traceback (most recent call last):\n  Fi").result()
    assert row["status"] == "failed"
    assert row["error"].startswith(f"The disk of {tmp_path / 'jobs' / 'one'} is full (")


@pytest.mark.parametrize("name", ["max_epoch", "default_root_dir"])
def test_an_argument_that_the_trainer_cannot_have(name: str) -> None:
    fine, job = job_of(ONE, TEXTURES), job_of(ONE, TEXTURES)
    job.settings["trainer"][name] = 3  # type: ignore[index]
    with pytest.raises(StudyError, match=rf"^`trainer` of m has {name}, "):
        check_jobs([fine, job])


def test_a_value_that_the_trainer_cannot_have() -> None:
    job = job_of(ONE, TEXTURES)
    job.settings["trainer"]["max_epochs"] = "many"  # type: ignore[index]
    with pytest.raises(StudyError, match=r"^`trainer` of m .*`max_epochs` must be int or null, not many\."):
        check_jobs([job])


@pytest.mark.parametrize("devices", [["gpu"], ["0", ""], []])
def test_devices_that_are_none(devices: list[str], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=rf"--devices must be cpu or numbers.*, not '{','.join(devices)}'"):
        run_study(write(tmp_path), tmp_path / "out", devices=devices)
    assert not (tmp_path / "out").exists()


def test_no_jobs_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--jobs must be at least 1, not 0"):
        run_study(write(tmp_path), tmp_path / "out", jobs=0)


def test_checking_leaves_a_job_as_it_is() -> None:
    transforms = [{"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [8, 8]}}]
    compose = {"class_path": "torchvision.transforms.v2.Compose", "init_args": {"transforms": transforms}}
    pre_processor = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": compose}}
    job = job_of({**ONE, "init_args": {"pre_processor": pre_processor}}, TEXTURES)
    before = job.fingerprint
    check_jobs([job])
    assert job.fingerprint == before
