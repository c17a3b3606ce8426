"""What makes training fast and can be turned off: optimizers, precision, compiled modules, features on disk."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from anomalib_ckaad.features.folder import FeatureFolder, hash_weights
from anomalib_ckaad.network.backbone import FrozenBackbone

ADAM_BETAS = (0.5, 0.999)


def make_adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam with betas (0.5, 0.999), in one pass over memory where torch has that, which takes a sixth of the time.

    Example:
        >>> make_adam(nn.Linear(2, 2).parameters(), 1e-3).defaults["fused"]
        True
    """
    chosen = list(parameters)
    fused = all(one.device.type in ("cpu", "cuda") and one.is_contiguous() for one in chosen)
    return torch.optim.Adam(chosen, learning_rate, ADAM_BETAS, fused=fused or None)


def bfloat16_if(wanted: bool, device: str = "cpu") -> AbstractContextManager[object]:  # noqa: FBT001
    """Autocast to bfloat16 on a type of device, or nothing: what a trainer has chosen stays as it is."""
    return torch.autocast(device, torch.bfloat16) if wanted else nullcontext()


def precision_of(images: Tensor) -> str:
    """The precision that a module would compute in here, to tell features by.

    Example:
        >>> with bfloat16_if(True):
        ...     precision_of(torch.zeros(1))
        'torch.float32 torch.bfloat16'
    """
    device = images.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    return f"{images.dtype} {autocast}"


def describe_transform(transform: object) -> str:
    """A transform and all its parameters, those that its ``repr`` leaves out as well.

    Example:
        >>> from torchvision.transforms.v2 import CenterCrop
        >>> describe_transform(CenterCrop(8))
        "CenterCrop(size='(8, 8)')"
    """
    parts = getattr(transform, "transforms", None)
    if parts is not None:
        return f"{type(transform).__name__}[{', '.join(map(describe_transform, parts))}]"
    values = {name: str(value) for name, value in vars(transform).items() if not name.startswith("_")}
    values.pop("training", None)
    shown = ", ".join(f"{name}={value!r}" for name, value in sorted(values.items()))
    return f"{type(transform).__name__}({shown})"


def open_folder(cache_dir: str | Path, limit: float, backbone: FrozenBackbone, transform: object) -> FeatureFolder:
    """The features in a folder that are of this backbone as it is now.

    Args:
        cache_dir: The folder; that of other backbones as well.
        limit: Bytes that it may hold in all.
        backbone: With its weights loaded.
        transform: What resizes and normalizes images; None for nothing.
    """
    configuration = {
        "backbone": backbone.name,
        "weights": hash_weights(backbone.network),
        "stages": " ".join(stage.name for stage in backbone.stages),
        "transform": "none" if transform is None else describe_transform(transform),
        "fold": str(backbone.fold),
        "memory_format": str(backbone.memory_format),
        "timm": timm.__version__,
        "torch": torch.__version__,
    }
    return FeatureFolder(Path(cache_dir).expanduser(), limit, configuration)
