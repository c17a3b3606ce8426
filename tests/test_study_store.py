"""Results are appended whole, come back after a cut, and are never mixed with another study's."""

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.study.jobs import Job, Study, read_study
from anomalib_ckaad.study.store import Store, missing_jobs

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


@pytest.mark.parametrize("cut", [1, 20])
def test_a_store_that_was_cut_off_in_mid_line_goes_on(cut: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for job in JOBS[:2]:
        store.append("mine", row_of(job))
    store.path.write_bytes(store.path.read_bytes()[:-cut])
    rows = store.check(STUDY)
    assert missing_jobs(JOBS, rows) == list(JOBS[1:])
    store.append("mine", row_of(JOBS[2]))
    assert [row["seed"] for row in store.check(STUDY) if row["method"] == "b"] == [0]
    assert missing_jobs(JOBS, store.check(STUDY)) in ([JOBS[1], JOBS[3]], [JOBS[3]])


def test_a_store_whose_first_line_was_cut_off_begins_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path.write_text('{"study": "mi')
    assert store.check(STUDY) == []
    store.append("mine", row_of(JOBS[0]))
    assert store.read()[0] == "mine"
    assert len(store.check(STUDY)) == 1


def test_the_plan_of_the_last_start_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.planned() == []
    store.plan(STUDY)
    store.plan(STUDY)
    assert len(store.path.read_text().splitlines()) == 2  # the study's name, and one plan
    store.append("mine", row_of(JOBS[0]))
    store.plan(Study("mine", JOBS[:3]))
    assert store.planned() == [job.name for job in JOBS[:3]]
    assert len(store.check(STUDY)) == 1


def test_two_studies_on_one_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("other", row_of(JOBS[0]))
    with pytest.raises(StudyError, match=r"^Expected .* to hold the study 'mine', got 'other'\. Do give another"):
        store.check(STUDY)


def test_other_settings_under_the_same_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    changed = Study("mine", (Job("a", "tile", 0, {"model": "another"}),))
    with pytest.raises(StudyError, match=r"^Expected the settings that a on tile was run with .* Do rename"):
        store.check(changed)
    assert len(store.check(Study("mine", (*JOBS, Job("c", "tile", 0, {}))))) == 1  # more methods are no conflict


def test_other_data_under_the_same_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = Job("gone", "tile", 0, {"model": "x", "data": {"root": "here"}})
    store.append("mine", row_of(old, settings=old.settings))
    same = Job("new", "tile", 0, {"model": "y", "data": {"root": "here"}})
    assert len(store.check(Study("mine", (same,)))) == 1
    other = Job("new", "tile", 0, {"model": "y", "data": {"root": "there"}})
    with pytest.raises(StudyError, match=r"^Expected the settings of tile that gone was run with"):
        store.check(Study("mine", (other,)))


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "study.jsonl").write_text(json.dumps({"hello": 1}) + "\n")
    with pytest.raises(StudyError, match=r"^Expected .* to be the store of a study in format 1, got another file\. Do"):
        Store(tmp_path).check(STUDY)


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "new").locked(),
        pytest.raises(StudyError, match=r"^Expected no other study at work in .* got one\. Do wait"),
        Store(tmp_path / "new").locked(),
    ):
        pass
    with Store(tmp_path / "new").locked():  # free again
        pass


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    before = store.path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anomalib_ckaad.study.store.os.fsync", fail)
    with pytest.raises(OSError, match=r"Expected to write to .*study\.jsonl, got No space left on device\. Do make"):
        store.append("mine", row_of(JOBS[1]))
    assert store.path.read_bytes() == before


def test_a_write_that_is_cut_short_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    before = store.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))  # half of a row fits
        with pytest.raises(OSError, match=r"^(\[Errno \d+\] )?Expected to write to .*study\.jsonl, got File too large"):
            store.append("mine", row_of(JOBS[1], note="x" * 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.path.read_bytes() == before


def test_a_config_that_failed_may_be_corrected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0], "failed", error="x"))
    corrected = Study("mine", (Job("a", "tile", 0, {"model": "another"}),))
    assert missing_jobs(corrected.jobs, store.check(corrected)) == list(corrected.jobs)


def test_lines_of_something_else_are_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("mine", row_of(JOBS[0]))
    with store.path.open("a") as file:
        file.write('{"a": 1}\n[1]\n{"plan": 3}\n{"plan": [1, [["a"], "b", 1], ["a", "b"]]}\n')
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


def test_a_header_without_the_studys_name(tmp_path: Path) -> None:
    (tmp_path / "study.jsonl").write_text('{"format": 1}\n')
    with pytest.raises(StudyError, match=r"^Expected .* to be the store of a study in format 1, got another file\. Do"):
        Store(tmp_path).check(STUDY)


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
    with pytest.raises(StudyError, match=r"^Expected the settings of tile that Padim was run with .* file of groups"):
        store.check(read_study(config))
    groups.write_text("image,group\r\na,1\r\n")  # the same in words
    assert store.check(read_study(config))
    groups.unlink()  # that it is missing is found where the data are made
    assert store.check(read_study(config))
    groups.write_text("image,group\na,2\n")
    config.write_text(yaml.safe_dump({"seeds": 1, "methods": {"Stfpm": methods["Stfpm"]}, "data": {"tile": data}}))
    with pytest.raises(StudyError, match=r"^Expected the settings of tile that Padim was run with"):
        store.check(read_study(config))
