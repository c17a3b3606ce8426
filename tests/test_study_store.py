"""Results are appended whole, survive interruptions, and are never mixed with those of another study."""

import json
import multiprocessing
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalib_ckaad.errors import FileError, StudyError
from anomalib_ckaad.study.jobs import Job, Study, read_study
from anomalib_ckaad.study.store import APPLICATION, Store, missing_jobs

JOBS = tuple(Job(method, "tile", seed, {"model": method}) for method in ("a", "b") for seed in (0, 1))
STUDY = Study("mine", JOBS)


def row_of(job: Job, status: str = "done", **more: Any) -> dict[str, Any]:
    about = {"method": job.method, "data": job.data, "seed": job.seed, "fingerprint": job.fingerprint}
    done = {"scores": {"all": {}}, "seen": [], "known": {}, "folder": f"jobs/{job.folder}"}
    done |= {"images": {"train": 9, "test": 3}, "machine": "some"}
    cost = {"seconds_fit": 1, "seconds_image": 0.1, "memory_MiB": 1.5, "threads": 1}
    return {**about, "status": status, **({**done, **cost} if status == "done" else {"error": "x"}), **more}


def test_results_come_back_and_the_last_one_of_a_job_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.check(STUDY) == []
    store.append("mine", row_of(JOBS[0], "failed", error="x"))
    store.append("mine", row_of(JOBS[1]))
    rows = store.check(STUDY)
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert missing_jobs(JOBS, rows) == [JOBS[0], JOBS[2], JOBS[3]]  # what failed is tried again
    store.append("mine", row_of(JOBS[0]))
    assert missing_jobs(JOBS, store.check(STUDY)) == [JOBS[2], JOBS[3]]


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_store_that_was_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for job in JOBS[:2]:
        store.append("mine", row_of(job))
    store.path.write_bytes(store.path.read_bytes()[:-cut])
    with pytest.raises(StudyError, match=r"study\.sqlite is damaged.*--output"):
        store.check(STUDY)


@pytest.mark.parametrize("offset", [0, 2000, 12200])
def test_a_store_with_other_bytes_in_it_is_refused(offset: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for job in JOBS:
        store.append("mine", row_of(job))
    content = bytearray(store.path.read_bytes())
    content[offset : offset + 3000] = b"\xa5" * 3000
    store.path.write_bytes(content)
    for use in (store.read, store.planned, lambda: store.append("mine", row_of(JOBS[0]))):
        with pytest.raises(StudyError, match=r"study\.sqlite is damaged"):
            use()
    assert store.path.read_bytes() == content


def test_a_store_that_nothing_was_written_to_begins_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path.touch()
    assert store.check(STUDY) == []
    assert store.planned() == []
    store.append("mine", row_of(JOBS[0]))
    assert store.read()[0] == "mine"
    assert len(store.check(STUDY)) == 1


def test_a_process_that_is_killed_while_it_writes_loses_only_that(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for job in JOBS[:2]:
        store.append("mine", row_of(job))
    # More pages than the cache holds: some are in the file when the process is killed.
    program = """if True:
        import os, signal, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM results")
        connection.executemany("INSERT INTO results VALUES (?)", [("x" * 3000,)] * 100)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", program, str(store.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*-journal"))
    assert missing_jobs(JOBS, store.check(STUDY)) == list(JOBS[2:])
    store.append("mine", row_of(JOBS[2]))
    assert missing_jobs(JOBS, store.check(STUDY)) == [JOBS[3]]


def append_many(folder: Path, first: int) -> None:
    for seed in range(first, first + 10):
        Store(folder).append("mine", row_of(Job("a", "tile", seed, {})))


def test_several_processes_write_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # without a second import of torch
    writers = [context.Process(target=append_many, args=(tmp_path, first)) for first in (0, 10, 20)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        name, rows = Store(tmp_path).read()  # as a report does while a study is running
        assert name == "mine" or not rows
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(row["seed"] for row in Store(tmp_path).read()[1]) == list(range(30))


def test_the_plan_of_the_last_start_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.planned() == []
    store.plan(STUDY)
    before = store.path.read_bytes()
    store.plan(STUDY)
    assert store.path.read_bytes() == before
    assert store.planned() == [job.name for job in JOBS]
    store.append("mine", row_of(JOBS[0]))
    store.plan(Study("mine", JOBS[:3]))
    assert store.planned() == [job.name for job in JOBS[:3]]
    assert len(store.check(STUDY)) == 1


def test_two_studies_on_one_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("other", row_of(JOBS[0]))
    with pytest.raises(StudyError, match=r"holds the study 'other', not 'mine'.*--output"):
        store.check(STUDY)


def test_other_settings_under_the_same_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    changed = Study("mine", (Job("a", "tile", 0, {"model": "another"}),))
    with pytest.raises(StudyError, match=r"^a on tile .*other settings.*Rename"):
        store.check(changed)
    assert len(store.check(Study("mine", (*JOBS, Job("c", "tile", 0, {}))))) == 1  # more methods are no conflict


def test_other_data_under_the_same_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = Job("gone", "tile", 0, {"model": "x", "data": {"root": "here"}})
    store.append("mine", row_of(old, settings=old.settings))
    same = Job("new", "tile", 0, {"model": "y", "data": {"root": "here"}})
    assert len(store.check(Study("mine", (same,)))) == 1
    other = Job("new", "tile", 0, {"model": "y", "data": {"root": "there"}})
    with pytest.raises(StudyError, match=r"^gone .*tile.*other settings of this data set"):
        store.check(Study("mine", (other,)))


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE TABLE study (name TEXT)"], "is not a study's store"),
        (["PRAGMA application_id = 3"], "is not a study's store"),
        ([f"PRAGMA application_id = {APPLICATION}", "PRAGMA user_version = 7"], "has format 7, not 1"),
    ],
)
def test_a_database_that_is_no_store_of_this_format(statements: list[str], message: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "study.sqlite")) as connection:
        for statement in statements:
            connection.execute(statement)
    store = Store(tmp_path)
    before = store.path.read_bytes()
    for use in (lambda: store.check(STUDY), lambda: store.append("mine", row_of(JOBS[0]))):
        with pytest.raises(StudyError, match=rf"study\.sqlite {message}\. .*--output"):
            use()
    assert store.path.read_bytes() == before


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.sqlite").write_text(json.dumps({"hello": 1}) + "\n")
    with pytest.raises(StudyError, match=r"study\.sqlite is damaged, or not a study's store.*--output"):
        Store(tmp_path).check(STUDY)


def test_a_store_of_the_old_format_is_refused_and_stays(tmp_path: Path) -> None:
    old = tmp_path / "study.jsonl"
    old.write_text('{"study": "mine", "format": 1}\n')
    store = Store(tmp_path)
    for use in (store.read, store.planned, lambda: store.append("mine", row_of(JOBS[0]))):
        with pytest.raises(StudyError, match=r"study\.jsonl.*no longer read.*--output"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["study.jsonl"]
    old.unlink()
    assert store.check(STUDY) == []


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "new").locked(),
        pytest.raises(StudyError, match=r"^Another study is running in .*new.*--output"),
        Store(tmp_path / "new").locked(),
    ):
        pass
    with Store(tmp_path / "new").locked():  # free again
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    program = """if True:
        import os, signal, sys
        from pathlib import Path
        from anomalib_ckaad.study.store import Store
        with Store(Path(sys.argv[1])).locked():
            print("locked", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(StudyError, match="Another study is running"), Store(tmp_path).locked():
            pass
        process.kill()
        process.wait()
    with Store(tmp_path).locked():
        pass


def test_a_lock_leaves_errors_within_it_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="own"), Store(tmp_path).locked():
        raise PermissionError("own")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file: File exists.*--output"), Store(tmp_path / "file").locked():
        pass


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    before = store.path.read_bytes()
    connect = sqlite3.connect

    def connect_to_full_disk(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are
        return connection

    monkeypatch.setattr("anomalib_ckaad.study.store.sqlite3.connect", connect_to_full_disk)
    with pytest.raises(FileError, match=r"study\.sqlite: database or disk is full"):
        store.append("mine", row_of(JOBS[1], note="x" * 20000))
    monkeypatch.undo()
    assert store.path.read_bytes() == before
    assert len(store.check(STUDY)) == 1


def test_a_write_that_is_cut_short_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    before = store.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))  # part of a row fits
        with pytest.raises(FileError, match=r"study\.sqlite"):
            store.append("mine", row_of(JOBS[1], note="x" * 20000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.path.read_bytes() == before
    assert len(store.check(STUDY)) == 1


def test_a_config_that_failed_may_be_corrected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0], "failed", error="x"))
    corrected = Study("mine", (Job("a", "tile", 0, {"model": "another"}),))
    assert missing_jobs(corrected.jobs, store.check(corrected)) == list(corrected.jobs)


def test_rows_of_something_else_are_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    for other in ({"a": 1}, {"plan": 3}, {}):
        store.append("mine", other)
    assert len(store.check(STUDY)) == 1
    assert store.planned() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"scores": None},
        {"scores": {}},
        {"scores": {"all": 0.5}},
        {"scores": {"all": {"image_AUROC": "x"}}},
        {"method": ["a"]},
        {"seed": "1"},
        {"images": {}},
        {"known": {"a": "x"}},
        {"seen": [["a"]]},
        {"errors": None},
        {"machine": None},
        {"settings": 3},
        {"status": "failed", "error": " "},
    ],
)
def test_a_result_that_lacks_something_counts_as_not_done(wrong: dict[str, Any], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    store.append("mine", {**row_of(JOBS[1]), **wrong})
    assert missing_jobs(JOBS, store.check(STUDY)) == list(JOBS[1:])


def test_another_file_of_groups_under_the_same_name(tmp_path: Path) -> None:
    """Other groups mean other test images."""
    groups = tmp_path / "groups.csv"
    config = tmp_path / "mine.yaml"
    data = {"class_path": "anomalib_ckaad.KnownAnomalies", "init_args": {"groups": str(groups)}}
    methods = {name: {"class_path": name} for name in ("Padim", "Stfpm")}
    config.write_text(yaml.safe_dump({"seeds": 1, "methods": methods, "data": {"tile": data}}))
    groups.write_text("image,group\na,1\n")
    study, store = read_study(config), Store(tmp_path / "out")
    store.folder.mkdir()
    store.append("mine", row_of(study.jobs[0], settings=study.jobs[0].settings))
    assert missing_jobs(study.jobs, store.check(read_study(config))) == [study.jobs[1]]
    groups.write_text("image,group\na,2\n")
    with pytest.raises(StudyError, match=r"^Padim .*tile.*file of groups"):
        store.check(read_study(config))
    groups.write_text("image,group\r\na,1\r\n")  # the same in words
    assert store.check(read_study(config))
    groups.unlink()  # that it is missing is found where the data are made
    assert store.check(read_study(config))
    groups.write_text("image,group\na,2\n")
    config.write_text(yaml.safe_dump({"seeds": 1, "methods": {"Stfpm": methods["Stfpm"]}, "data": {"tile": data}}))
    with pytest.raises(StudyError, match=r"^Padim .*tile"):
        store.check(read_study(config))
