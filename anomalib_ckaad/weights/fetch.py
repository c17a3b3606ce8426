"""Put a backbone's weights into a folder in the hub's layout, which works wherever timm loads ``local-dir:`` names."""

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor

from anomalib_ckaad.errors import ConfigurationError, FileError, WeightsError
from anomalib_ckaad.files import PART, sha256_of, write_folder_whole
from anomalib_ckaad.network.backbone import build_on_meta
from anomalib_ckaad.weights.folders import CONFIG, RECORD, TENSORS, is_weight_folder, weights_root
from anomalib_ckaad.weights.loading import misfit, normalization, read_weights
from anomalib_ckaad.weights.sources import HUB, PACKAGE, PACKAGED_IN, architecture_of

REMOTE_KEYS: Final = ("url", "hf_hub_id", "hf_hub_filename", "file", "source", "state_dict", "custom_load")


def fetch_weights(backbone: str, source: str = HUB, folder: Path | None = None, *, force: bool = False) -> Path:
    """Fetch the weights of a whole backbone, check every tensor, and write them as ``config.json`` and tensors.

    Args:
        backbone: timm's name of the backbone, with or without the tag of its weights.
        source: ``hub``, ``package``, or a ``.pth`` or ``.safetensors`` file, or a folder in the hub's layout.
        folder: Where to write them. Default: a folder of the backbone's name in ``weights_root()``.
        force: Whether to replace weights that are there already.

    Returns:
        The folder.

    Raises:
        ConfigurationError: If timm does not know the backbone.
        WeightsError: If the weights are missing, unreadable, or another backbone's.
        MissingPackageError: If the package with the weights is not installed.
        FileError: If the folder is not empty, or cannot be written.
    """
    if ":" in backbone:
        msg = f"{backbone!r} is not timm's name of a backbone. Use a name without `:`, and --from for folders."
        raise ConfigurationError(msg)
    build_on_meta(backbone)  # a name that timm does not know is refused before anything is fetched
    folder = (folder or weights_root() / backbone).expanduser().absolute()
    _check_target(folder, force=force)
    weights = {HUB: None, PACKAGE: PACKAGE}.get(source, source)
    place, tensors = read_weights(backbone, weights)
    whole, config = _fit(backbone, tensors, place)
    mean, std = normalization(backbone, weights)
    config["pretrained_cfg"] |= {"mean": mean, "std": std}
    config[RECORD] |= {"backbone": backbone, "source": _describe(source, backbone)}

    def write(target: Path) -> None:
        save_file(whole, target / TENSORS, metadata={"format": "pt"})
        config[RECORD]["sha256"] = sha256_of(target / TENSORS)
        (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    try:
        _write_or_replace(folder, write)
    except OSError as error:
        msg = f"Weights cannot be written to {folder} ({error}). Choose another --output."
        raise FileError(msg) from error
    return folder


def _check_target(folder: Path, *, force: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not is_weight_folder(folder):
        msg = f"{folder} exists and holds something other than weights. Choose another --output."
        raise FileError(msg)
    if not force:
        msg = f"{folder} already holds weights. Use them, or replace them with --force."
        raise FileError(msg)


def _fit(backbone: str, tensors: Mapping[str, Tensor], place: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every tensor of the backbone, with the classifier that the source has, and timm's record of it.

    Raises:
        WeightsError: If a tensor is missing, of another shape, or not of this backbone.
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
            raise WeightsError(misfit(name, own, found, place, backbone))
        whole[name] = found.detach().clone().contiguous()
    foreign = next((name for name in tensors if name not in whole), None)
    if foreign is not None:
        msg = f"{place} has a tensor {foreign!r}, which {backbone} does not. Name the backbone that the weights are of."
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
    return f"{PACKAGED_IN} {version(PACKAGED_IN)}" if source == PACKAGE else Path(source).name


def _write_or_replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a new folder, or replace one: what was there is deleted only when the new one is in its place."""
    if not folder.exists():
        write_folder_whole(folder, write)
        return
    new, old = (folder.with_name(f"{PART}{uuid.uuid4().hex}") for _ in range(2))
    write_folder_whole(new, write)
    try:
        folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
