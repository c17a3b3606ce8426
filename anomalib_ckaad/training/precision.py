"""Whether this CPU is faster in bfloat16: measured, since what a processor says it can do is not what it is good at."""

import time
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

WORTHWHILE = 1.5
"""From this speed-up on training runs in bfloat16; below, rounding buys too little."""
LEAST_PIXELS = 128 * 128
"""Smaller images gain less: what they take is reading the weights, which stay in float32."""
REPEATS = 9


@cache
def bfloat16_speed_up() -> float:
    """How many times as fast as in float32 a 3x3 convolution is in bfloat16 on this CPU.

    Measured once a process, in some ten milliseconds: on one thread, as several wait for the slowest; by turns, and the
    best run of each, so that other programs matter little.

    Returns:
        The ratio; 0 where there is no such convolution.

    Example:
        >>> bfloat16_speed_up() >= 0
        True
    """
    generator = torch.Generator().manual_seed(0)  # training's own random numbers stay what they are
    images, weight = (torch.randn(shape, generator=generator) for shape in ((4, 64, 32, 32), (64, 64, 3, 3)))
    images = images.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _ratio((images, weight), (images.bfloat16(), weight.bfloat16()))
    except RuntimeError:  # what torch raises for an operation that it does not have
        return 0.0
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _ratio(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Seconds of one convolution by those of another."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):  # the first prepares
        for seconds, (images, weight) in zip(taken, (one, other), strict=True):
            begin = time.perf_counter()
            functional.conv2d(images, weight, padding=1)
            seconds.append(time.perf_counter() - begin)
    return min(taken[0][1:]) / min(taken[1][1:])


def use_bfloat16(
    wanted: bool | None,  # noqa: FBT001 - three values
    precision: str,
    device: torch.device,
    dtype: torch.dtype,
) -> bool:
    """Whether training steps run under bfloat16 autocast that the trainer has not asked for.

    Args:
        wanted: True or False where somebody has decided; None measures on a CPU. A GPU is given it only if it is asked
            for: small batches keep it waiting in any precision, so that it saves memory more than time.
        precision: The trainer's; anything but its default ``32-true`` has been chosen and stands.
        device: Where training runs; only CPUs and CUDA's devices are looked at.
        dtype: Of the weights; only float32 ones are.

    Example:
        >>> use_bfloat16(True, "32-true", torch.device("cpu"), torch.float32)
        True
        >>> use_bfloat16(True, "64-true", torch.device("cpu"), torch.float64)
        False
    """
    if wanted is False or precision != "32-true" or device.type not in {"cpu", "cuda"} or dtype != torch.float32:
        return False
    return wanted is True or (device.type == "cpu" and bfloat16_speed_up() >= WORTHWHILE)


def is_worthwhile(wanted: bool | None, images: Tensor) -> bool:  # noqa: FBT001 - three values
    """Whether images (N, 3, H, W) are large enough for bfloat16 to gain much, unless somebody has decided.

    Example:
        >>> is_worthwhile(None, torch.zeros(1, 3, 256, 256)), is_worthwhile(None, torch.zeros(1, 3, 64, 64))
        (True, False)
    """
    return wanted is True or images.shape[-2] * images.shape[-1] >= LEAST_PIXELS
