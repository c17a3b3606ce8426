"""Folds a frozen network's batch norms into the convolutions before them: the same features in less time."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference of a folded network's features by their largest value; rounding alone makes less."""


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy whose convolutions do what the batch norms behind them did.

    In evaluation mode a batch norm multiplies each channel and adds to it, which weights and bias of the convolution
    can do as well. Which norm follows which convolution is seen on images, on which the copy is compared as well.

    Args:
        network: In evaluation mode; left as it is.
        images: A batch (N, 3, H, W) that it takes, of noise.

    Returns:
        The copy; None where nothing can be folded, the precision is not known, or features would differ.
    """
    dtype = next((parameter.dtype for parameter in network.parameters()), None)
    if dtype not in TOLERANCE:
        return None
    folded = copy.deepcopy(network)
    pairs = _find_pairs(folded, images)
    replaced: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        replaced[convolution] = fuse_conv_bn_eval(convolution.double(), norm.double()).to(dtype)  # rounded once
        replaced[norm] = _what_is_left(norm)
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if child in replaced:
                setattr(parent, name, replaced[child])
    if not pairs or not _are_close(network(images), folded(images), TOLERANCE[dtype]):
        return None
    return folded.to(memory_format=torch.channels_last)


def _find_pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Batch norms that are given what a convolution has just computed."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # outputs are kept, so that none gets the number of another
    pairs = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)

    def match(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module))

    with _hooks(network, note, match):
        network(images)
    convolutions = [convolution for convolution, _ in pairs]
    # One that is used twice, or whose norm has no statistics of its own, stays as it is.
    return [
        (convolution, norm)
        for convolution, norm in pairs
        if convolutions.count(convolution) == 1 and norm.running_mean is not None and norm.affine
    ]


@contextmanager
def _hooks(network: nn.Module, after: object, before: object) -> Iterator[None]:
    handles = []
    for module in network.modules():
        handles.append(module.register_forward_hook(after))  # type: ignore[arg-type]
        handles.append(module.register_forward_pre_hook(before))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _what_is_left(norm: nn.BatchNorm2d) -> nn.Module:
    """timm's norms have an activation of their own."""
    left = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*left) if left else nn.Identity()


def _are_close(features: list[Tensor], others: list[Tensor], tolerance: float) -> bool:
    return all(
        bool((one - other).abs().max() <= tolerance * one.abs().max())
        for one, other in zip(features, others, strict=True)
    )
