"""Operations on channels-last maps on CPUs that read memory once; torch's own copy maps to another layout and back.

Each equals torch's own up to rounding and computes sums in at least float32. Maps of another layout or device, and
everything that is compiled or exported, go to torch's own operations. Images are processed one by one, so that the maps
of one image stay in the processor's cache.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from anomalib_ckaad.host.torch_state import is_traced

SMALLEST_LENGTH = 1e-12
"""Shorter vectors are divided by this, as ``torch.nn.functional.normalize`` does."""
SMALLEST_COSINE_LENGTH = 1e-8
"""The same for ``torch.cosine_similarity``."""


def is_channels_last(x: Tensor) -> bool:
    """Whether the functions of this module take their own way for a map (N, C, H, W).

    Example:
        >>> x = torch.ones(1, 2, 3, 3)
        >>> is_channels_last(x), is_channels_last(x.contiguous(memory_format=torch.channels_last))
        (False, True)
    """
    if is_traced() or x.device.type != "cpu" or x.ndim != 4:  # noqa: PLR2004
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C) without a copy."""
    return x.permute(0, 2, 3, 1)


def _apply(function: Any, *arguments: object) -> Tensor:  # noqa: ANN401 - torch's functions share no typed base
    result: Tensor = function.apply(*arguments)
    return result


class InstanceNorm(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` with affine parameters.

    Args:
        channels: Channels of the maps.

    Example:
        >>> x = torch.rand(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
        >>> norm = InstanceNorm(8)
        >>> torch.testing.assert_close(norm(x), super(InstanceNorm, norm).forward(x))
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, each channel of each image with mean ``bias`` and deviation ``weight``."""
        if not is_channels_last(x):
            return super().forward(x)
        # Batch normalization of one image is instance normalization, and has a kernel that knows channels-last.
        each = [
            functional.batch_norm(one, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for one in torch.split(x, 1)
        ]
        return torch.cat(each)


class _UnitLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        out = torch.empty_like(x)
        lengths = []
        for one, written in zip(_rows(x), _rows(out), strict=True):
            wide = _wide(one)
            lengths.append(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp(min=SMALLEST_LENGTH))
            torch.div(wide, lengths[-1], out=written)
        ctx.save_for_backward(out, torch.stack(lengths))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        out, length = ctx.saved_tensors
        of_x: Tensor = torch.empty_like(out)
        for y, divisor, g, written in zip(_rows(out), length, _rows(gradient), _rows(of_x), strict=True):
            y, g = _wide(y), _wide(g)  # noqa: PLW2901
            along = (y * g).sum(dim=-1, keepdim=True)
            torch.div(torch.addcmul(g, y, along, value=-1), divisor, out=written)
        return of_x


def unit_length(x: Tensor) -> Tensor:
    """``functional.normalize(x, dim=1)``: every position of a map (N, C, H, W) with length 1 over its channels.

    Example:
        >>> unit_length(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten()
        tensor([0.6000, 0.8000])
    """
    if not is_channels_last(x):
        return functional.normalize(x, dim=1)
    return _apply(_UnitLength, x)


class _CosineOfMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, g: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        products = []
        with torch.autocast(f.device.type, enabled=False):  # which would round the products, and slowly
            for one, other in zip(_rows(f).flatten(1), _rows(g).flatten(1), strict=True):
                a, b = _wide(one), _wide(other)
                products.append(torch.stack([a @ b, a @ a, b @ b]))
        of_both, of_f, of_g = torch.stack(products, dim=1)
        lengths = torch.stack([of_f, of_g]).sqrt().clamp(min=SMALLEST_COSINE_LENGTH)
        cosine: Tensor = of_both / lengths.prod(dim=0)
        ctx.save_for_backward(f, g, cosine, lengths)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401 - torch's
        f, g, cosine, (of_f, of_g) = ctx.saved_tensors
        from_f, from_g = gradient / (of_f * of_g), -gradient * cosine / of_g**2
        of_map: Tensor = torch.empty_like(g)
        for index, written in enumerate(_rows(of_map)):
            a, b = _wide(_rows(f)[index]), _wide(_rows(g)[index])
            torch.add(a * from_f[index], b * from_g[index], out=written)
        return None, of_map


def cosine_of_maps(f: Tensor, g: Tensor) -> Tensor:
    """Cosine of whole maps (N, C, H, W), at least in float32; gradients go into ``g`` alone where ``f`` needs none.

    Returns:
        (N,), each in [-1, 1].

    Example:
        >>> f = torch.ones(2, 3, 4, 4)
        >>> cosine_of_maps(f, -2 * f)
        tensor([-1.0000, -1.0000])
    """
    if f.requires_grad or not (is_channels_last(f) and is_channels_last(g)):
        return torch.cosine_similarity(_wide(f).flatten(1), _wide(g).flatten(1), dim=1)
    return _apply(_CosineOfMaps, f, g)
