"""The datamodule that ``KnownAnomalies`` wraps: built from a config, and set up with errors that say what to do."""

from collections.abc import Mapping
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule

from anomalib_ckaad.errors import CkaadError, KnownAnomaliesError


def resolve(
    data: AnomalibDataModule | Mapping[str, Any] | str, arguments: Mapping[str, Any] | None
) -> AnomalibDataModule:
    """Return a datamodule from itself, from ``class_path`` and ``init_args``, or from a name and arguments."""
    if isinstance(data, AnomalibDataModule):
        return data
    config: dict[str, Any] = {"class_path": data} if isinstance(data, str) else dict(data)
    config["init_args"] = {**config.get("init_args", {}), **(arguments or {})}
    return get_datamodule(config)


def set_up(data: AnomalibDataModule, stage: str | None) -> None:
    """Set the wrapped data up.

    Raises:
        KnownAnomaliesError: If anomalib cannot, for instance because masks are missing.
    """
    try:
        data.setup(stage)
    except CkaadError:
        raise  # its message says what to do already
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        reason = next(iter(str(error).splitlines()), "")
        msg = (
            f"anomalib cannot set up the data set {data.name} ({type(error).__name__}: {reason}). Check its folders "
            "and extensions. If masks are given, each anomalous image needs one."
        )
        raise KnownAnomaliesError(msg) from error
