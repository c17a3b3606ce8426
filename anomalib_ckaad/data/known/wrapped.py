"""The datamodule that ``KnownAnomalies`` wraps: built from what was given, and set up with clear words."""

from collections.abc import Mapping
from typing import Any

from anomalib.data import AnomalibDataModule, get_datamodule

from anomalib_ckaad.errors import KnownAnomaliesError


def resolve(
    data: AnomalibDataModule | Mapping[str, Any] | str, arguments: Mapping[str, Any] | None
) -> AnomalibDataModule:
    """A datamodule from itself, from ``class_path`` and ``init_args``, or from a name and arguments."""
    if isinstance(data, AnomalibDataModule):
        return data
    config: dict[str, Any] = {"class_path": data} if isinstance(data, str) else dict(data)
    config["init_args"] = {**config.get("init_args", {}), **(arguments or {})}
    return get_datamodule(config)


def set_up(data: AnomalibDataModule, stage: str | None) -> None:
    """Set the wrapped data up, and say in one sentence what is wrong with them.

    Raises:
        KnownAnomaliesError: If anomalib cannot, such as for masks that are missing.
    """
    try:
        data.setup(stage)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        if str(error).startswith("Expected "):
            raise
        msg = (
            f"Expected images, and of each anomalous one a mask where masks are given, in the folders of {data.name}, "
            f"got {type(error).__name__}: {str(error).splitlines()[0]!r}. Do check its folders and extensions, and add "
            "the masks or leave them all out."
        )
        raise KnownAnomaliesError(msg) from error
