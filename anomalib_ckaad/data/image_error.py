"""The error of an image file, apart from its readers, which all raise it."""

from pathlib import Path


class ImageFileError(ValueError):
    """An image is missing, unreadable, or of a kind that anomalib would damage in silence."""


def unreadable(path: str | Path, error: BaseException) -> str:
    """Say which file cannot be read, and why.

    Example:
        >>> unreadable("a.png", OSError("image file is truncated"))
        'Expected a readable image, got a.png (image file is truncated). Do replace or remove it.'
    """
    return f"Expected a readable image, got {path} ({' '.join(str(error).split())}). Do replace or remove it."
