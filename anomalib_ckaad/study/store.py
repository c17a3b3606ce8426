"""The results of a study in an SQLite database: appended as they come, each of them whole or not at all."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from anomalib_ckaad.errors import FileError, StudyError
from anomalib_ckaad.study.jobs import Job, Study

FILE_NAME: Final = "study.sqlite"
OLD_FILE_NAME: Final = "study.jsonl"
LOCK_NAME: Final = ".lock"
SCORES: Final = "scores.npz"
"""File in a job's folder with the scores of every test image."""
DONE, FAILED = "done", "failed"
NAMES: Final = ("method", "data", "seed")
APPLICATION: Final = int.from_bytes(b"CKAS")
"""Marks a database as the store of a study."""
FORMAT: Final = 1
WAIT_SECONDS: Final = 60
"""How long to wait for another process that writes; it takes milliseconds."""
SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
    "CREATE TABLE study (name TEXT NOT NULL)",
    "CREATE TABLE plan (method TEXT NOT NULL, data TEXT NOT NULL, seed INTEGER NOT NULL)",
    "CREATE TABLE results (result TEXT NOT NULL)",
)


class Store:
    """The results of one study in a folder.

    A result is a mapping, kept as JSON in the order of arrival; the last one of a job counts. One that lacks something
    a report needs is ignored, so its job counts as not done. The plan holds the names of all jobs of the study. Several
    processes may read and write at the same time, and a process that is killed loses only what it was writing.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME

    def read(self) -> tuple[str | None, list[dict[str, Any]]]:
        """Name of the study, or None if there is no store yet, and the last result of each job.

        Raises:
            StudyError: If the file is damaged, not a store, or of another format.
        """
        with self._reading() as connection:
            if connection is None:
                return None, []
            named = connection.execute("SELECT name FROM study").fetchone()
            texts = connection.execute("SELECT result FROM results ORDER BY rowid").fetchall()
        if named is None:
            raise StudyError(self._damaged("it names no study"))
        try:
            results = [json.loads(text) for (text,) in texts]
        except ValueError as error:
            raise StudyError(self._damaged(error)) from error
        last = {tuple(row[key] for key in NAMES): row for row in results if is_result(row)}
        return str(named[0]), list(last.values())

    def planned(self) -> list[tuple[str, str, int]]:
        """Names of all jobs of the study as it was last started.

        Raises:
            StudyError: If the file is damaged, not a store, or of another format.
        """
        with self._reading() as connection:
            if connection is None:
                return []
            return connection.execute("SELECT method, data, seed FROM plan ORDER BY rowid").fetchall()

    def plan(self, study: Study) -> None:
        """Store the names of all jobs, so that a report can tell which are missing.

        Raises:
            FileError: If they cannot be written; the plan before stays.
        """
        names = [job.name for job in study.jobs]
        if self.planned() != names:
            with self._writing(study.name) as connection:
                connection.execute("DELETE FROM plan")
                connection.executemany("INSERT INTO plan VALUES (?, ?, ?)", names)

    def append(self, study: str, row: Mapping[str, Any]) -> None:
        """Add a result; it is on the disk when this returns.

        Raises:
            FileError: If it cannot be written; what is there stays.
        """
        with self._writing(study) as connection:
            connection.execute("INSERT INTO results VALUES (?)", (json.dumps(row),))

    def check(self, study: Study) -> list[dict[str, Any]]:
        """Results with which the study may be continued.

        Raises:
            StudyError: If they belong to another study, or to a job of the same name with other settings.
        """
        name, rows = self.read()
        if name is not None and name != study.name:
            msg = f"{self.folder} holds the study {name!r}, not {study.name!r}. Pass another --output."
            raise StudyError(msg)
        wanted = {job.name: job.fingerprint for job in study.jobs}
        data_of = {(job.data, job.seed): job.settings for job in study.jobs}
        for row in rows:
            key = (row["method"], row["data"], row["seed"])
            # A failed job has no result that could be mixed with others, so its config may be corrected.
            if row["status"] == DONE and wanted.get(key, row["fingerprint"]) != row["fingerprint"]:
                msg = (
                    f"{row['method']} on {row['data']} was run with other settings in {self.folder}, and results of "
                    "different settings cannot be compared. Rename the method or data set, or pass another --output."
                )
                raise StudyError(msg)
            own = row.get("settings", {})
            # Results of a method that the config no longer has would still be on the same page.
            if row["status"] == DONE and not _same_data(data_of.get((row["data"], row["seed"]), own), own):
                msg = (
                    f"{row['method']} was run on {row['data']} in {self.folder} with other settings of this data set, "
                    "or with another file of groups, so its test images differ. Rename the data set, or pass another "
                    "--output."
                )
                raise StudyError(msg)
        return rows

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other studies out of the folder; the operating system ends the lock together with the process.

        Raises:
            FileError: If the folder cannot be used.
            StudyError: If another study is running there.
        """
        with closing(self._take_lock()):
            yield

    def _take_lock(self) -> sqlite3.Connection:
        """A connection that holds the lock until it is closed."""
        path = self.folder / LOCK_NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"Cannot use the folder {self.folder}: {error.strerror or error}. Pass another --output."
            raise FileError(msg) from error
        try:
            connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise FileError(_cannot_lock(path, error)) from error
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            connection.close()
            if _kind(error) == sqlite3.SQLITE_BUSY:
                msg = f"Another study is running in {self.folder}. Wait until it has ended, or pass another --output."
                raise StudyError(msg) from error
            raise FileError(_cannot_lock(path, error)) from error
        return connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection in a transaction that changes nothing; None if there is no store yet."""
        self._check_format()
        if not self.path.exists():
            yield None
            return
        with self._transaction("BEGIN") as connection:
            yield connection if self._has_schema(connection) else None

    @contextmanager
    def _writing(self, study: str) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction that is written whole or not at all; a new store gets the study's name."""
        self._check_format()
        with self._transaction("BEGIN IMMEDIATE") as connection:
            if not self._has_schema(connection):
                for statement in SCHEMA:
                    connection.execute(statement)
                connection.execute("INSERT INTO study VALUES (?)", (study,))
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            # A connection that is closed within a transaction takes it back.
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            if _kind(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                raise StudyError(self._damaged(error)) from error
            if _kind(error) == sqlite3.SQLITE_BUSY:
                msg = f"Another process has been writing to {self.path} for {WAIT_SECONDS} s. End it, and start again."
                raise StudyError(msg) from error
            msg = (
                f"Cannot read or write {self.path}: {error}. Check the free space and the permissions, and start "
                "again; the results before are kept."
            )
            raise FileError(msg) from error

    def _check_format(self) -> None:
        old = self.folder / OLD_FILE_NAME
        if old.exists() and not self.path.exists():
            msg = (
                f"{old} has a format that is no longer read. Pass another --output, or delete it to run all jobs again."
            )
            raise StudyError(msg)

    def _has_schema(self, connection: sqlite3.Connection) -> bool:
        """Whether the database has been filled; one that is neither a store nor empty is refused."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (application, version, tables) == (0, 0, 0):
            return False
        if application != APPLICATION or version != FORMAT:
            what = f"has format {version}, not {FORMAT}" if application == APPLICATION else "is not a study's store"
            msg = f"{self.path} {what}. Pass another --output."
            raise StudyError(msg)
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StudyError(self._damaged(found))
        return True

    def _damaged(self, reason: object) -> str:
        return (
            f"{self.path} is damaged, or not a study's store ({' '.join(str(reason).split())}). Restore it from a "
            "backup, pass another --output, or delete it to run all jobs again."
        )


def _cannot_lock(path: Path, error: sqlite3.Error) -> str:
    return f"Cannot lock {path}: {error}. Check the permissions, or pass another --output."


def _kind(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_result(row: object) -> bool:
    """Whether a row has everything that a report reads."""
    names = ("method", "data", "fingerprint")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        return False
    if type(row.get("seed")) is not int or not isinstance(row.get("settings", {}), dict):
        return False
    if row.get("status") == FAILED:
        return isinstance(row.get("error"), str) and bool(row["error"].strip())
    scores, images, seen = (row.get(name) for name in ("scores", "images", "seen"))
    return (
        row.get("status") == DONE
        and all(isinstance(row.get(name), str) for name in ("folder", "machine"))
        and _are_numbers({name: row.get(name) for name in ("seconds_fit", "seconds_image", "memory_MiB", "threads")})
        and all(_are_numbers(row.get(name, {})) for name in ("images", "known", "errors"))
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
    """Whether both settings give the same test images, as far as can be seen from them."""
    first, second = (json.dumps(settings.get("data"), sort_keys=True, default=str) for settings in (one, other))
    files, others = (settings.get("files") or {} for settings in (one, other))
    return first == second and all(others.get(name, value) == value for name, value in files.items())


def missing_jobs(jobs: Sequence[Job], rows: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Jobs without a result; those that failed are tried again."""
    done = {(row["method"], row["data"], row["seed"]) for row in rows if row["status"] == DONE}
    return [job for job in jobs if job.name not in done]
