"""Gradient checkpointing: activations are computed again in the backward pass, which takes less memory and more time.

Losses, gradients and weights stay what they are, on CPUs to the last digit.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anomalib_ckaad.host.torch_state import is_traced


def set_grad_checkpointing(*modules: nn.Module | None, enable: bool = True) -> None:
    """Turn gradient checkpointing on, or off, in all parts of modules that have it, as timm's models do.

    Example:
        >>> from anomalib_ckaad.network.discriminator import PatchDiscriminator
        >>> discriminator = PatchDiscriminator([4])
        >>> set_grad_checkpointing(discriminator, None)
        >>> discriminator.grad_checkpointing
        True
    """
    for module in filter(None, modules):
        for part in module.modules():
            if hasattr(part, "grad_checkpointing"):
                setattr(part, "grad_checkpointing", enable)  # noqa: B010 - of parts that have it


def is_checkpointing(module: nn.Module) -> bool:
    """Whether a part keeps only its input in this pass: checkpointing is on, and gradients will be wanted."""
    return getattr(module, "grad_checkpointing", False) and torch.is_grad_enabled() and not is_traced()


def checkpointed(function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module | None = None) -> Tensor:
    """The function's value; only ``x`` is kept, and the backward pass computes the rest again.

    Args:
        function: A map of tensors without random numbers.
        x: Its argument.
        module: What the function runs: its batch norms do not count a batch twice.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> checkpointed(lambda x: (3 * x).exp(), x).sum().backward()
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
