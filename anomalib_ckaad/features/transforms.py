"""What a transform does to an image: whether the same each time, and a description of all its parameters."""

from torch import nn
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, Identity, Normalize, Pad, Resize, ToDtype, ToImage

FIXED_TRANSFORMS = (CenterCrop, Compose, Grayscale, Identity, nn.Identity, Normalize, Pad, Resize, ToDtype, ToImage)
"""Transforms that give the same result for the same image. Of any other it is not known."""


def is_fixed(transform: object) -> bool:
    """Whether a transform is known to give the same of the same image.

    Example:
        >>> from torchvision.transforms.v2 import RandomHorizontalFlip
        >>> is_fixed(Compose([Resize(8), Normalize([0.5], [0.5])])), is_fixed(Compose([RandomHorizontalFlip()]))
        (True, False)
    """
    if isinstance(transform, Compose) and type(transform) is Compose:
        return all(map(is_fixed, transform.transforms))
    return transform is None or type(transform) in FIXED_TRANSFORMS  # a subclass may do anything


def describe_transform(transform: object) -> str:
    """A transform and all its parameters, those that its ``repr`` leaves out as well.

    Example:
        >>> from torchvision.transforms.v2 import CenterCrop
        >>> describe_transform(CenterCrop(8))
        "CenterCrop(size='(8, 8)')"
    """
    children = list(transform.children()) if isinstance(transform, nn.Module) else []
    parts = getattr(transform, "transforms", None) or children
    if parts:
        return f"{type(transform).__name__}[{', '.join(map(describe_transform, parts))}]"
    values = {name: str(value) for name, value in vars(transform).items() if not name.startswith("_")}
    values.pop("training", None)
    shown = ", ".join(f"{name}={value!r}" for name, value in sorted(values.items()))
    return f"{type(transform).__name__}({shown})"
