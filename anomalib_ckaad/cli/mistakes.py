"""What a command says on standard error instead of a traceback."""

from collections.abc import Iterator
from typing import Final

from anomalib_ckaad.errors import CkaadError
from anomalib_ckaad.host.worker_errors import original_message

BAD_INPUT: Final = 2
"""Exit status after a mistake of the user's, as argparse has it."""


def message_for_user(error: BaseException) -> str | None:
    """The message of an error that the user can fix, or None if the traceback is needed.

    Args:
        error: A ``CkaadError``, or an error that was raised from one or while one was handled; or an ``OSError`` of the
            operating system, such as a full disk.

    Example:
        >>> message_for_user(CkaadError("`margin` must be greater than 0, not 0."))
        '`margin` must be greater than 0, not 0.'
        >>> message_for_user(PermissionError(13, "Permission denied", "results/config.yaml"))
        'results/config.yaml: Permission denied.'
        >>> message_for_user(KeyError("margin"))
    """
    for one in _chain(error):
        if isinstance(one, CkaadError):
            return _of_system(one) or original_message(one)
    return _of_system(error)


def _of_system(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno is None:
        return None
    reason = str(error.strerror).rstrip(".") + "."
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__
