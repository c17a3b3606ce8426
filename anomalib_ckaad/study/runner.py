"""Run a study: each job in a process of its own, results into the store as they come."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.study.jobs import Job, Study, read_study
from anomalib_ckaad.study.process import JobProcess, forget_result, kept_result
from anomalib_ckaad.study.store import FAILED, Store, missing_jobs

POLL_SECONDS = 0.2


def run_study(
    config: Path, output: Path, jobs: int | None = None, devices: Sequence[str] = ("cpu",)
) -> list[dict[str, Any]]:
    """Run the jobs of a study that have no result yet, and those that failed.

    Args:
        config: The study's config.
        output: Folder of the study; each study needs its own.
        jobs: How many jobs run at a time; default: one per device.
        devices: ``cpu``, or numbers of GPUs, which jobs take in turns.

    Returns:
        The results of all jobs in the config, in its order; ``status`` is ``done`` or ``failed``, and a failed one has
        its ``error``.

    Raises:
        StudyError: If the config is wrong, or the folder holds results that cannot be compared with those of its jobs,
            or another study is running there; nothing has been run then.
        FileError: If a result cannot be written; those before it are kept.
    """
    study = read_study(config)
    jobs = len(devices) if jobs is None else jobs
    if not devices or not all(one == "cpu" or one.isdecimal() for one in devices):
        msg = f"--devices must be cpu or numbers of GPUs, such as 0,1, not {','.join(devices)!r}."
        raise StudyError(msg)
    if jobs < 1:
        msg = f"--jobs must be at least 1, not {jobs}."
        raise StudyError(msg)
    store = Store(output)
    missing = missing_jobs(study.jobs, store.check(study))
    if missing or store.planned() != [job.name for job in study.jobs]:
        from anomalib_ckaad.study.checks import check_jobs  # noqa: PLC0415 - imports anomalib

        check_jobs(missing)
        with store.locked(), _ended_in_order():
            run_jobs(study, _adopt_results(study, store), store, jobs, devices)
    _, rows = store.read()
    by_name = {(row["method"], row["data"], row["seed"]): row for row in rows}
    return [by_name[job.name] for job in study.jobs if job.name in by_name]


def _adopt_results(study: Study, store: Store) -> list[Job]:
    """Put results that a full disk kept out of the store there, and return the jobs that are still missing."""
    missing = missing_jobs(study.jobs, store.check(study))
    begun = store.planned()
    for job in missing:
        if job.name not in begun:  # the store was deleted, to run all jobs again
            forget_result(job, store.folder)
    store.plan(study)
    for job in missing:
        if (row := kept_result(job, store.folder)) is not None:
            store.append(study.name, row)
    return missing_jobs(study.jobs, store.check(study))


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


def run_jobs(study: Study, missing: Sequence[Job], store: Store, jobs: int, devices: Sequence[str]) -> None:
    """Run jobs, several at a time, and show their progress; all are stopped if an error or a signal ends the study."""
    waiting = deque(missing)
    running: list[JobProcess] = []
    free = deque(devices[number % len(devices)] for number in range(jobs))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        total = progress.add_task(study.name, total=len(study.jobs), completed=len(study.jobs) - len(missing))
        shown = {}
        try:
            while waiting or running:
                while waiting and free:
                    started = JobProcess.start(waiting.popleft(), store.folder, free.popleft(), threads)
                    running.append(started)
                    shown[started.job.name] = progress.add_task(f"  {_title(*started.job.name)}", total=None)
                time.sleep(POLL_SECONDS)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    free.append(one.device)
                    row = one.result()
                    store.append(study.name, row)
                    progress.remove_task(shown.pop(one.job.name))
                    progress.advance(total)
                    progress.console.print(_line(row), highlight=False, markup=False)
        finally:
            for one in running:
                one.stop()


def _title(method: str, data: str, seed: int) -> str:
    return f"{method} on {data}, seed {seed}"


def _line(row: Mapping[str, Any]) -> str:
    title = _title(row["method"], row["data"], row["seed"])
    if row["status"] == FAILED:
        return f"failed: {title}: {row['error'].splitlines()[-1]}"
    auroc = 100 * row["scores"]["all"]["image_AUROC"]
    return f"{title}: image AUROC {auroc:.1f}, {row['seconds_fit']:.0f} s of training"
