"""Results of a study as lines of JSON: appended as they come, complete or not at all."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib_ckaad.study.jobs import Job, Study, StudyError

FILE_NAME = "study.jsonl"
FORMAT = 1
DONE, FAILED = "done", "failed"
NAMES = ("method", "data", "seed")
KINDS = {"method": str, "data": str, "seed": int, "status": str, "fingerprint": str}
"""What every result has."""
KINDS_DONE = {
    "scores": dict,
    "seen": list,
    "known": dict,
    "images": dict,
    "folder": str,
    "seconds_fit": float,
    "seconds_image": float,
    "memory_MiB": float,
}
"""What that of a job has besides which is done."""


class Store:
    """The results of one study in a folder.

    The first line names the study; every other is the result of a job, the last one of a job counting, or the study's
    plan, the names of all its jobs. A line that was cut off, as by a power failure, or that lacks what a result has, is
    left out, and its job counts as not done.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME

    def read(self) -> tuple[str | None, list[dict[str, Any]]]:
        """Name of the study, None if there is no store yet, and the last result of each job.

        Raises:
            StudyError: If the file is no store, or of another version.
        """
        if not self.path.exists():
            return None, []
        lines = self._whole_lines()
        if not lines:
            return None, []
        header = lines[0]
        if not isinstance(header, dict) or header.get("format") != FORMAT or "study" not in header:
            msg = (
                f"Expected {self.path} to be the store of a study in format {FORMAT}, got another file. "
                "Do give another --output."
            )
            raise StudyError(msg)
        rows = {tuple(row[name] for name in NAMES): row for row in lines[1:] if _is_result(row)}
        return str(header["study"]), list(rows.values())

    def planned(self) -> list[tuple[str, str, int]]:
        """Names of all jobs of the study as it was last started."""
        lines = self._whole_lines() if self.path.exists() else []
        plans = [line["plan"] for line in lines if isinstance(line, dict) and isinstance(line.get("plan"), list)]
        return [tuple(job) for job in plans[-1] if isinstance(job, list) and len(job) == len(NAMES)] if plans else []

    def plan(self, study: Study) -> None:
        """Note the names of all jobs, so that a report can tell which are missing.

        Raises:
            OSError: If it cannot be written.
        """
        names = [job.name for job in study.jobs]
        if self.planned() != names:
            self.append(study.name, {"plan": names})

    def _whole_lines(self) -> list[Any]:
        found = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n"):
                found.append(value)
        return found

    def check(self, study: Study) -> list[dict[str, Any]]:
        """Results that the study may go on from.

        Raises:
            StudyError: If they are of another study, or of a job with the same name and other settings.
        """
        name, rows = self.read()
        if name is not None and name != study.name:
            msg = f"Expected {self.folder} to hold the study {study.name!r}, got {name!r}. Do give another --output."
            raise StudyError(msg)
        wanted = {job.name: job.fingerprint for job in study.jobs}
        data_of = {(job.data, job.seed): _data_of(job.settings) for job in study.jobs}
        for row in rows:
            key = (row["method"], row["data"], row["seed"])
            # What failed has no result that could be mixed with others: its config may be corrected.
            if row["status"] == DONE and wanted.get(key, row["fingerprint"]) != row["fingerprint"]:
                msg = (
                    f"Expected the settings that {row['method']} on {row['data']} was run with in {self.folder}, got "
                    "others, and one table of both would compare nothing. Do rename the method or data set, or give "
                    "another --output."
                )
                raise StudyError(msg)
            data = _data_of(row.get("settings", {}))
            # Of a method that the config no longer has, its table would still be on the same page.
            if row["status"] == DONE and data_of.get((row["data"], row["seed"]), data) != data:
                msg = (
                    f"Expected the settings of {row['data']} that {row['method']} was run with in {self.folder}, got "
                    "others: its images are not these. Do rename the data set, or give another --output."
                )
                raise StudyError(msg)
        return rows

    def append(self, study: str, row: Mapping[str, Any]) -> None:
        """Add a result, on the disk before this returns.

        Raises:
            OSError: If it cannot be written; what is there stays.
        """
        text = self.path.read_bytes() if self.path.exists() else b""
        header = (
            b"" if text and self._whole_lines() else (json.dumps({"study": study, "format": FORMAT}) + "\n").encode()
        )
        # What was cut off in mid-line must not swallow the next one.
        mend = b"\n" if text and not text.endswith(b"\n") else b""
        # No buffer: what is left in one would be written after all where the file is closed.
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            rest = memoryview(mend + header + (json.dumps(row) + "\n").encode())
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError as error:
                os.truncate(self.path, before)
                msg = f"Expected to write to {self.path}, got {error.strerror or error}. Do make room, and start again."
                raise OSError(error.errno, msg) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other studies out of the folder.

        Raises:
            StudyError: If another one is at work there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                msg = (
                    f"Expected no other study at work in {self.folder}, got one. "
                    "Do wait for it, or give another --output."
                )
                raise StudyError(msg) from error
            yield


def _is_result(line: object) -> bool:
    """Whether a line of a store has all that a report reads."""
    if not isinstance(line, dict):
        return False
    kinds = {**KINDS, **(KINDS_DONE if line.get("status") == DONE else {"error": str})}
    if not all(isinstance(line.get(name), (int, float) if kind is float else kind) for name, kind in kinds.items()):
        return False
    scores = line["scores"] if line["status"] == DONE else {"all": {}}
    return "all" in scores and all(isinstance(row, dict) for row in scores.values())


def _data_of(settings: Mapping[str, Any]) -> str:
    """Settings that test images depend on, as they are read back."""
    return json.dumps([settings.get("data"), settings.get("files")], sort_keys=True, default=str)


def missing_jobs(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Jobs without a result; those that failed are tried again."""
    done = {(row["method"], row["data"], row["seed"]) for row in rows if row["status"] == DONE}
    return [job for job in jobs if job.name not in done]
