"""Describe the error that ended a job: its kind, and one line for the user."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anomalib_ckaad.errors import CkaadError
from anomalib_ckaad.host.worker_errors import original_message

ROOM = 2**20
"""Bytes; a disk with less free space counts as full."""
FULL = {errno.ENOSPC, errno.EDQUOT}
LONGEST = 2000
"""Characters of a message that are kept."""


class Failure(NamedTuple):
    """Why a job failed, as plain data.

    Attributes:
        kind: Name of the error's class.
        error: One line: the message of an error of this package, and the class and message of any other.
    """

    kind: str
    error: str


def failure_of(error: BaseException, folder: Path) -> Failure:
    """Describe the error that ended a job with files in ``folder``.

    If it was raised from an error of this package, that one is described instead.

    Example:
        >>> from anomalib_ckaad.errors import DataError
        >>> failure_of(DataError("X has no images."), Path())
        Failure(kind='DataError', error='X has no images.')
        >>> failure_of(KeyError("a"), Path())
        Failure(kind='KeyError', error="KeyError: 'a'")
    """
    own = next((one for one in _causes(error) if isinstance(one, CkaadError)), None)
    if own is not None:
        kind = type(own).__name__
        message = original_message(own)
    else:
        kind = type(error).__name__
        message = f"{kind}: {error}"
    message = " ".join(message.split())[:LONGEST]
    if is_full(folder) or any(isinstance(one, OSError) and one.errno in FULL for one in _causes(error)):
        message = no_room(folder, message)
    return Failure(kind, message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and the errors that it was raised from."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__


def is_full(folder: Path) -> bool:
    """Whether there is almost no free space; torch reports a full disk by an error without ``errno``."""
    return shutil.disk_usage(folder).free < ROOM


def no_room(folder: Path, reason: str) -> str:
    """Message for a job that ended because the disk was full."""
    return f"The disk of {folder} is full ({reason}). Free some space, and start the study again."
