"""Training in less memory and more time: activations computed again where gradients need them, freed memory given back.

Losses, gradients and weights stay what they are, on CPUs to the last digit.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anomalib_ckaad.network.channels_last import is_traced


def may_recompute(module: nn.Module) -> bool:
    """Whether a part keeps its input alone in this pass: it was asked to, and gradients will be wanted."""
    return getattr(module, "recomputes", False) and torch.is_grad_enabled() and not is_traced()


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module | None = None) -> Tensor:
    """The function's value, of which no more than ``x`` is kept: the backward pass computes the rest again.

    Args:
        function: A map of tensors without random numbers.
        x: Its argument.
        module: What the function runs: its batch norms do not count a batch twice.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> recomputed(lambda x: (3 * x).exp(), x).sum().backward()
        >>> x.grad
        tensor([60.2566, 60.2566])
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _uncounted(module)

    value: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return value


@contextmanager
def _uncounted(module: nn.Module | None) -> Iterator[None]:
    """Batch norms leave their running statistics as they are."""
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)] if module is not None else []
    before = [(one.momentum, one.num_batches_tracked) for one in norms]
    for norm in norms:  # not told to track none: they would save other tensors than in the first pass
        norm.momentum = 0.0
        norm.num_batches_tracked = norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def save_memory(*modules: nn.Module | None) -> None:
    """Let all parts of modules that can recompute do so, and give freed memory back before each of their passes.

    Example:
        >>> from anomalib_ckaad.network.discriminator import PatchDiscriminator
        >>> discriminator = PatchDiscriminator([4])
        >>> save_memory(discriminator, None)
        >>> discriminator.recomputes
        True
    """
    for module in filter(None, modules):
        for part in module.modules():
            if hasattr(part, "recomputes"):
                setattr(part, "recomputes", True)  # noqa: B010 - of parts that have it
        module.register_forward_pre_hook(_give_back)


def _give_back(module: nn.Module, _: Any) -> None:  # noqa: ANN401 - whatever the module is called with
    """Give what is freed back to the system: else glibc keeps it, in pieces too small for the next maps."""
    weight = next(module.parameters())
    if module.training and weight.device.type == "cpu" and torch.is_grad_enabled() and not is_traced():
        _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    """glibc's ``malloc_trim``, or nothing where there is none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim or (lambda _: None)
