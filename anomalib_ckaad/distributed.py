"""Sums and lists over all processes of a training; of one process alone they are its own."""

from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def rank_and_count() -> tuple[int, int]:
    """Number of this process, from 0 on, and how many there are.

    Example:
        >>> rank_and_count()
        (0, 1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_processes(*tensors: Tensor) -> None:
    """Add tensors up in place; every process calls this with tensors of the same shapes, in the same order."""
    if rank_and_count()[1] > 1:
        for one in tensors:
            distributed.all_reduce(one)


def sum_counts(*counts: int, device: torch.device | str = "cpu") -> list[int]:
    """Sums of whole numbers.

    Args:
        *counts: As many in every process.
        device: Of the processes' other tensors.

    Example:
        >>> sum_counts(3, 4)
        [3, 4]
    """
    summed = torch.tensor(counts, device=device)
    sum_over_processes(summed)
    return [int(one) for one in summed]


def gather(value: T) -> list[T]:
    """The value of every process, in their order.

    Example:
        >>> gather("own")
        ['own']
    """
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    gathered: list[T] = [value] * count
    distributed.all_gather_object(gathered, value)
    return gathered
