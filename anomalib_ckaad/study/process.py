"""The process of one job: start it, stop it, read its result."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from anomalib_ckaad.files import write_whole
from anomalib_ckaad.study.failures import is_full, no_room
from anomalib_ckaad.study.jobs import Job
from anomalib_ckaad.study.store import DONE, FAILED, SCORES, is_result

JOB: Final = "job.json"
RESULT: Final = "result.json"
LOG: Final = "log.txt"
SHOWN_LINES: Final = 15
"""Last lines of the log that are shown if a process left no result."""


@dataclass
class JobProcess:
    """A job whose process was started.

    Attributes:
        job: What it runs.
        process: The process; its standard input is a pipe, whose end tells it that the study has ended.
        folder: Files of the job.
        log: Standard output and error of the process.
        device: ``cpu``, or the number of a GPU.
        begin: When it was started.
    """

    job: Job
    process: "subprocess.Popen[bytes]"
    folder: Path
    log: TextIO
    device: str
    begin: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(cls, job: Job, output: Path, device: str, threads: int) -> "JobProcess":
        """Start a job.

        Args:
            job: What to run.
            output: Folder of the study.
            device: ``cpu``, or the number of a GPU.
            threads: Number of threads that torch may use.
        """
        folder = folder_of(job, output)
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier try has left, such as a checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / JOB, json.dumps(_with_device(job, device), default=str))
        environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        environment["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
        log = (folder / LOG).open("w", encoding="utf-8")
        command = [sys.executable, "-m", "anomalib_ckaad.study.run_job", str(folder / JOB), str(folder / RESULT)]
        process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        return cls(job, process, folder, log, device)

    def stop(self) -> None:
        """End the process, and wait until it has ended."""
        self.process.kill()
        self._close()

    def result(self) -> dict[str, Any]:
        """The row for the store of a process that has ended."""
        self._close()
        about = {**describe(self.job, self.folder), "seconds": time.perf_counter() - self.begin}
        if found := _read(self.folder / RESULT):
            # Written whole at the end: an error on leaving the process changes nothing of it.
            return {**about, "status": DONE if "scores" in found else FAILED, **found}
        if is_full(self.folder):  # the log is cut off as well then
            return {**about, "status": FAILED, "error": no_room(self.folder, "no result could be written")}
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        ended = f"The process ended with status {self.process.returncode}."
        return {**about, "status": FAILED, "error": "\n".join([ended, *lines[-SHOWN_LINES:]])}

    def _close(self) -> None:
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.log.close()


def end_with_study() -> None:
    """End this process as soon as the study that started it has ended, for whatever reason.

    The study holds the other end of standard input and never writes, so reading it returns when the study is gone.
    """
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read, whose lock Python wants when it ends
        pass
    # sys.exit would end this thread only, and nothing else ends a training that is in the middle of a computation.
    os._exit(1)


def folder_of(job: Job, output: Path) -> Path:
    """Folder for the files of a job."""
    return output / "jobs" / job.folder


def describe(job: Job, folder: Path) -> dict[str, Any]:
    """The part of a job's row that does not depend on its result."""
    return {
        "method": job.method,
        "data": job.data,
        "seed": job.seed,
        "fingerprint": job.fingerprint,
        "settings": dict(job.settings),
        "folder": folder.relative_to(folder.parents[1]).as_posix(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def forget_result(job: Job, output: Path) -> None:
    """Delete the result that a job has left in its folder."""
    (folder_of(job, output) / RESULT).unlink(missing_ok=True)


def kept_result(job: Job, output: Path) -> dict[str, Any] | None:
    """The row of a job that is done but is missing in the store, as after a full disk; None if there is none."""
    folder = folder_of(job, output)
    settings = _read(folder / JOB).get("settings", {})
    row = {**describe(job, folder), "status": DONE, **_read(folder / RESULT)}
    same_files = settings.get("files") == job.settings.get("files")
    return row if is_result(row) and same_files and (folder / SCORES).exists() else None


def _read(path: Path) -> dict[str, Any]:
    """What a job has written; nothing if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _with_device(job: Job, device: str) -> Mapping[str, Any]:
    accelerator = {"accelerator": "cpu" if device == "cpu" else "gpu", "devices": 1}
    settings = {**job.settings, "trainer": {**accelerator, **job.settings["trainer"]}}
    return {**asdict(job), "settings": settings}
