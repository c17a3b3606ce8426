"""Errors of the package: whoever catches one asks for its class, never for its words.

Every error that a user's input can cause derives from ``CkaadError``. Each kind is also the built-in error that says
the same, so that code that knows nothing of this package catches it as usual. A message says what is wrong, with the
value, and what to do.

Example:
    >>> issubclass(MissingDataError, CkaadError), issubclass(MissingDataError, FileNotFoundError)
    (True, True)
"""

from pathlib import Path


class CkaadError(Exception):
    """What a user can fix: on the command line its message, without a traceback, and exit status 2."""


class ConfigurationError(CkaadError, ValueError):
    """An argument or a config asks for something that does not exist or makes no sense."""


class UnsupportedTypeError(CkaadError, TypeError):
    """An argument of a function is of another type than it takes."""


class DataError(CkaadError, ValueError):
    """Images, labels or masks cannot be used as they are."""


class MissingDataError(DataError, FileNotFoundError):
    """A data set, or a part of it, is not where it was looked for."""


class ImageFileError(DataError):
    """An image is missing, unreadable, or of a kind that anomalib would damage in silence."""


class IntensityError(DataError):
    """No black and white can be found for images of more than 8 bits."""


class ConversionError(DataError):
    """A folder of images cannot be converted as asked."""


class KnownAnomaliesError(DataError):
    """Known anomalies cannot be chosen as asked, or would leak into validation or test."""


class CheckpointError(CkaadError, ValueError):
    """A checkpoint is missing, unreadable, unsafe, or belongs to another model."""


class WeightsError(CkaadError, ValueError):
    """Weights are missing, unreadable, or belong to another backbone."""


class TrainingError(CkaadError, RuntimeError):
    """A training cannot begin or go on."""


class NonFiniteLossError(TrainingError, ArithmeticError):
    """A loss or gradient is not a finite number; raised before it reaches any weight."""


class ExportError(CkaadError, ValueError):
    """A model cannot be exported, or an exported file cannot be used."""


class MetricError(CkaadError, ValueError):
    """A metric or threshold cannot be computed from the scores, labels or masks at hand."""


class StudyError(CkaadError, ValueError):
    """A study cannot be made, gone on with or reported as asked."""


class FileError(CkaadError, OSError):
    """A file or folder is missing, exists already, or cannot be written."""


class MissingPackageError(CkaadError, ModuleNotFoundError):
    """A package is missing that an extra of this one brings."""


def unreadable(path: str | Path, error: BaseException) -> str:
    """Say which image cannot be read, and why.

    Example:
        >>> unreadable("a.png", OSError("image file is truncated"))
        'Cannot read the image a.png (image file is truncated). Replace or remove it.'
    """
    return f"Cannot read the image {path} ({' '.join(str(error).split())}). Replace or remove it."
