"""Training in less memory and more time: activations computed again where gradients need them, freed memory given back.

Losses, gradients and weights stay what they are, to the last digit.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anomalib_ckaad.channels_last import is_traced


def may_recompute(module: nn.Module) -> bool:
    """Whether a part keeps its input alone in this pass: it was asked to, and gradients will be wanted."""
    return getattr(module, "recomputes", False) and torch.is_grad_enabled() and not is_traced()


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function's value, of which no more than ``x`` is kept: the backward pass computes the rest again.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> recomputed(lambda x: (3 * x).exp(), x).sum().backward()
        >>> x.grad
        tensor([60.2566, 60.2566])
    """
    value: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    return value


def save_memory(*modules: nn.Module | None) -> None:
    """Let all parts of modules that can recompute do so, and give freed memory back before each of their passes.

    Not those with batch norms, whose running statistics would count a batch twice.

    Example:
        >>> from anomalib_ckaad.discriminator import PatchDiscriminator
        >>> discriminator = PatchDiscriminator([4])
        >>> save_memory(discriminator, None)
        >>> discriminator.recomputes
        True
    """
    for module in filter(None, modules):
        for part in module.modules():
            if hasattr(part, "recomputes") and not any(isinstance(one, nn.BatchNorm2d) for one in part.modules()):
                setattr(part, "recomputes", True)  # noqa: B010 - of parts that have it
        module.register_forward_pre_hook(_give_back)


def _give_back(module: nn.Module, _: Any) -> None:  # noqa: ANN401 - whatever the module is called with
    """Give what is freed back to the system: else glibc keeps it, in pieces too small for the next maps."""
    if module.training and torch.is_grad_enabled() and not is_traced():
        _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    """glibc's ``malloc_trim``, or nothing where there is none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim or (lambda _: None)
