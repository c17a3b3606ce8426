"""Run a study: each job in a process of its own, results into the store as they come."""

import inspect
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.study.jobs import Job, Study, read_study
from anomalib_ckaad.study.reasons import is_full, last_problem, no_room, reason_of
from anomalib_ckaad.study.store import DONE, FAILED, SCORES, Store, is_result, missing_jobs

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.2
SHOWN_LINES = 15
RESULT = "result.json"
SET_BY_A_STUDY = {"self", "callbacks", "default_root_dir"}
"""Arguments of Lightning's trainer that a config cannot give."""


@dataclass
class _Running:
    job: Job
    process: "subprocess.Popen[bytes]"
    folder: Path
    log: TextIO
    device: str
    begin: float = field(default_factory=time.perf_counter)


def run_study(
    config: Path, output: Path, jobs: int | None = None, devices: Sequence[str] = ("cpu",)
) -> list[dict[str, Any]]:
    """Run the jobs of a study that have no result yet, failed ones among them.

    Args:
        config: The study's config.
        output: Folder of the study; one study each.
        jobs: How many run at a time; default: one a device.
        devices: ``cpu``, or numbers of GPUs, which jobs take in turns.

    Returns:
        The results of all jobs of the config, in its order; ``status`` is ``done`` or ``failed``, and a failed one has
        its ``error``.

    Raises:
        StudyError: If the config is wrong, or the folder holds results that its jobs cannot be compared with; nothing
            has been run then.
        OSError: If a result cannot be written; those before it are there.
    """
    study = read_study(config)
    jobs = len(devices) if jobs is None else jobs
    if jobs < 1 or not devices or not all(one == "cpu" or one.isdecimal() for one in devices):
        msg = (
            f"Expected a job or more, and cpu or numbers of GPUs as devices, got {jobs} and {', '.join(devices)}. "
            "Do correct --jobs or --devices."
        )
        raise StudyError(msg)
    store = Store(output)
    rows = store.check(study)
    missing = missing_jobs(study.jobs, rows)
    if missing or store.planned() != [job.name for job in study.jobs]:
        check_jobs(missing)
        with store.locked(), _ended_in_order():
            missing = missing_jobs(study.jobs, store.check(study))
            begun = store.planned()
            for job in missing:
                if job.name not in begun:  # of a store that was deleted: all is run anew
                    (output / "jobs" / job.folder / RESULT).unlink(missing_ok=True)
            store.plan(study)
            for job in missing:  # what a full disk kept out of the store
                if (row := _kept_result(job, output)) is not None:
                    store.append(study.name, row)
            missing = missing_jobs(study.jobs, store.check(study))
            _run_all(study, missing, store, jobs, devices)
    _, rows = store.read()
    by_name = {(row["method"], row["data"], row["seed"]): row for row in rows}
    return [by_name[job.name] for job in study.jobs if job.name in by_name]


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a study that is told to end stop its jobs first."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kept_result(job: Job, output: Path) -> dict[str, Any] | None:
    """The result of a job that ended, and whose line is missing in the store."""
    folder = output / "jobs" / job.folder
    found, given = _read(folder / RESULT), _read(folder / "job.json").get("settings", {})
    row = {**_about(job, folder), "status": DONE, **found}
    same = given.get("files") == job.settings.get("files")
    return row if is_result(row) and same and (folder / SCORES).exists() else None


def _read(path: Path) -> dict[str, Any]:
    """What a job has written; nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_jobs(jobs: Sequence[Job]) -> None:
    """Refuse a study with an unknown method, argument or missing data before the first job is run.

    Raises:
        StudyError: If something is wrong with a job.
    """
    from anomalib_ckaad.study.run_job import parse  # noqa: PLC0415 - imports anomalib

    seen: set[str] = set()
    for job in jobs:
        _check_trainer(job)
        kind = json.dumps([job.settings["model"], job.data], default=str)
        if kind in seen:
            continue
        seen.add(kind)
        parser, found = parse(job)["data"]
        if job.data in seen:
            continue
        seen.add(job.data)
        # Only data sets that lie in a folder: others may download themselves in their job.
        try:
            data = parser.instantiate_classes(found).data
        except (ValueError, TypeError) as error:
            reason = reason_of(error)
            if not reason.startswith("Expected "):
                reason = f"Expected arguments that data can be made with, got a mistake: {reason}. Do correct it."
            msg = f"{reason} (data set {job.data!r})"
            raise StudyError(msg) from error
        inner = getattr(data, "data", data)
        root = getattr(inner, "root", None)
        downloads = type(inner).prepare_data is not _base_prepare_data()
        if root and not downloads and not Path(root).exists():
            msg = f"Expected the data set {job.data!r} in {str(root)!r}, got no such folder. Do correct root."
            raise StudyError(msg)


def _check_trainer(job: Job) -> None:
    """Refuse arguments that Lightning's trainer does not have, or values that it does not take.

    Raises:
        StudyError: If something is wrong with them.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # noqa: PLC0415
    from lightning.pytorch import Trainer  # noqa: PLC0415

    given = job.settings["trainer"]
    unknown = sorted(given.keys() - (set(inspect.signature(Trainer.__init__).parameters) - SET_BY_A_STUDY))
    if unknown:
        msg = f"Expected arguments of Lightning's trainer for {job.method}, got {', '.join(unknown)}. Do correct it."
        raise StudyError(msg)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, skip={*SET_BY_A_STUDY, "self"})
    try:
        parser.parse_object({"trainer": given})
    except (ArgumentError, TypeError, ValueError) as error:
        msg = f"Expected arguments of Lightning's trainer for {job.method}, got a mistake: {last_problem(str(error))}. "
        msg += "Do correct it."
        raise StudyError(msg) from error


def _base_prepare_data() -> Any:  # noqa: ANN401 - a function
    from anomalib.data import AnomalibDataModule  # noqa: PLC0415

    return AnomalibDataModule.prepare_data


def _run_all(study: Study, missing: Sequence[Job], store: Store, jobs: int, devices: Sequence[str]) -> None:
    waiting = deque(missing)
    running: list[_Running] = []
    free = deque(devices[number % len(devices)] for number in range(jobs))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total = progress.add_task(study.name, total=len(study.jobs), completed=len(study.jobs) - len(missing))
        shown = {}
        try:
            while waiting or running:
                while waiting and free:
                    started = _start(waiting.popleft(), store.folder, free.popleft(), threads)
                    running.append(started)
                    shown[started.job.name] = progress.add_task(f"  {_title(started.job)}", total=None)
                time.sleep(POLL_SECONDS)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    free.append(one.device)
                    row = _result(one)
                    store.append(study.name, row)
                    progress.remove_task(shown.pop(one.job.name))
                    progress.advance(total)
                    progress.console.print(_line(row), highlight=False, markup=False)
        finally:
            for one in running:
                one.process.kill()
                one.process.wait()
                one.log.close()


def _title(job: Job) -> str:
    return f"{job.method} on {job.data}, seed {job.seed}"


def _line(row: Mapping[str, Any]) -> str:
    title = f"{row['method']} on {row['data']}, seed {row['seed']}"
    if row["status"] == FAILED:
        return f"failed: {title}: {row['error'].splitlines()[-1]}"
    auroc = 100 * row["scores"]["all"]["image_AUROC"]
    return f"{title}: image AUROC {auroc:.1f}, {row['seconds_fit']:.0f} s of training"


def _start(job: Job, output: Path, device: str, threads: int) -> _Running:
    folder = output / "jobs" / job.folder
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier try has left, half a checkpoint on a full disk
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "job.json", folder / RESULT
    source.write_text(json.dumps(_with_device(job, device), default=str), encoding="utf-8")
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    environment["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
    log = (folder / "log.txt").open("w", encoding="utf-8")
    command = [sys.executable, "-m", "anomalib_ckaad.study.run_job", str(source), str(target)]
    process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
        command, stdout=log, stderr=subprocess.STDOUT, env=environment
    )
    return _Running(job, process, folder, log, device)


def _with_device(job: Job, device: str) -> dict[str, Any]:
    settings = dict(job.settings)
    accelerator = {"accelerator": "cpu" if device == "cpu" else "gpu", "devices": 1}
    settings["trainer"] = {**accelerator, **settings["trainer"]}
    return {**asdict(job), "settings": settings}


def _about(job: Job, folder: Path) -> dict[str, Any]:
    return {
        "method": job.method,
        "data": job.data,
        "seed": job.seed,
        "fingerprint": job.fingerprint,
        "settings": dict(job.settings),
        "folder": str(folder.relative_to(folder.parents[1])),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def _result(one: _Running) -> dict[str, Any]:
    one.log.close()
    about = {**_about(one.job, one.folder), "seconds": time.perf_counter() - one.begin}
    if result := _read(one.folder / RESULT):
        # Written as a whole at the end: what goes wrong in leaving the process changes nothing of it.
        return {**about, "status": DONE if "scores" in result else FAILED, **result}
    if is_full(one.folder):  # which has cut the log off as well
        return {**about, "status": FAILED, "error": no_room(one.folder, "no result could be written")}
    lines = (one.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    ended = f"The process ended with status {one.process.returncode}."
    return {**about, "status": FAILED, "error": "\n".join([ended, *lines[-SHOWN_LINES:]])}
