"""Results of a study as lines of JSON: appended as they come, complete or not at all."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomalib_ckaad.errors import StudyError
from anomalib_ckaad.study.jobs import Job, Study

FILE_NAME = "study.jsonl"
SCORES = "scores.npz"
"""What a job keeps of every test image, in its folder."""
FORMAT = 1
DONE, FAILED = "done", "failed"
NAMES = ("method", "data", "seed")


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
        rows = {tuple(row[name] for name in NAMES): row for row in lines[1:] if is_result(row)}
        return str(header["study"]), list(rows.values())

    def planned(self) -> list[tuple[str, str, int]]:
        """Names of all jobs of the study as it was last started."""
        lines = self._whole_lines() if self.path.exists() else []
        plans = [line["plan"] for line in lines if isinstance(line, dict) and isinstance(line.get("plan"), list)]
        jobs = [job for job in plans[-1] if isinstance(job, list)] if plans else []
        return [tuple(job) for job in jobs if list(map(type, job)) == [str, str, int]]

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
        data_of = {(job.data, job.seed): job.settings for job in study.jobs}
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
            own = row.get("settings", {})
            # Of a method that the config no longer has, its table would still be on the same page.
            if row["status"] == DONE and not _same_data(data_of.get((row["data"], row["seed"]), own), own):
                msg = (
                    f"Expected the settings of {row['data']} that {row['method']} was run with in {self.folder}, got "
                    "others, or another file of groups: its images are not these. Do rename the data set, or give "
                    "another --output."
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


def is_result(line: object) -> bool:
    """Whether a line of a store has all that a report reads."""
    if not isinstance(line, dict) or not all(
        isinstance(line.get(name), str) for name in ("method", "data", "fingerprint")
    ):
        return False
    if type(line.get("seed")) is not int or not isinstance(line.get("settings", {}), dict):
        return False
    if line.get("status") == FAILED:
        return isinstance(line.get("error"), str) and bool(line["error"].strip())
    scores, images, seen = (line.get(name) for name in ("scores", "images", "seen"))
    return (
        line.get("status") == DONE
        and all(isinstance(line.get(name), str) for name in ("folder", "machine"))
        and _are_numbers({name: line.get(name) for name in ("seconds_fit", "seconds_image", "memory_MiB", "threads")})
        and all(_are_numbers(line.get(name, {})) for name in ("images", "known", "errors"))
        and isinstance(images, dict)
        and images.keys() >= {"train", "test"}
        and isinstance(seen, list)
        and all(isinstance(one, str) for one in seen)
        and isinstance(scores, dict)
        and "all" in scores
        and all(map(_are_numbers, scores.values()))
    )


def _are_numbers(values: object) -> bool:
    return isinstance(values, dict) and all(type(one) in (int, float) for one in values.values())


def _same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings mean the same test images, as far as they say."""
    first, second = (json.dumps(settings.get("data"), sort_keys=True, default=str) for settings in (one, other))
    files, others = (settings.get("files") or {} for settings in (one, other))
    return first == second and all(others.get(name, value) == value for name, value in files.items())


def missing_jobs(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Jobs without a result; those that failed are tried again."""
    done = {(row["method"], row["data"], row["seed"]) for row in rows if row["status"] == DONE}
    return [job for job in jobs if job.name not in done]
