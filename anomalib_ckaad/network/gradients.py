"""Passes through a module that leave its own parameters without gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """For a while, no parameter of a module asks for gradients; they still flow through it.

    Example:
        >>> import torch
        >>> layer, x = nn.Linear(1, 1), torch.ones(1, requires_grad=True)
        >>> with without_gradients(layer):
        ...     layer(x).backward()
        >>> x.grad is None, layer.weight.grad is None, layer.weight.requires_grad
        (False, True, True)
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad = True
