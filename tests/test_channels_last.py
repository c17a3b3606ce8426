"""The ways of this package through channels-last maps give what torch gives, forwards and backwards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomalib_ckaad.network.channels_last import InstanceNorm, cosine_of_maps, is_channels_last, unit_length

PRECISIONS = [
    pytest.param(torch.float64, 1e-10, id="float64"),
    pytest.param(torch.float32, 1e-4, id="float32"),
    pytest.param(torch.bfloat16, 0.05, id="bfloat16"),
]


def maps(dtype: torch.dtype, *, channels_last: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(3, 5, 6, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    drawn[1][0, :, 0, 0] = 0  # a position without length
    if channels_last:
        drawn = [one.contiguous(memory_format=torch.channels_last) for one in drawn]
    return drawn[0], drawn[1]


def gradient_of(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    out = function(x)
    weights = torch.linspace(0.5, 1.5, out.numel()).view(out.shape).to(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    return out.detach(), gradient


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_cosine(dtype: torch.dtype, tolerance: float) -> None:
    f, g = maps(dtype)
    found = gradient_of(lambda x: cosine_of_maps(f, x), g)
    wide = torch.promote_types(dtype, torch.float32)
    expected = gradient_of(
        lambda x: torch.cosine_similarity(f.to(wide).flatten(1), x.to(wide).flatten(1), dim=1), g.contiguous()
    )
    assert found[0].dtype == wide
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance * 0.1)


def test_autocast_rounds_no_sum_over_whole_maps() -> None:
    f, g = (one.float().contiguous(memory_format=torch.channels_last) for one in maps(torch.bfloat16))
    expected = gradient_of(lambda x: cosine_of_maps(f, x), g)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            found, _ = gradient_of(lambda x, dtype=dtype: cosine_of_maps(f.to(dtype), x), g.to(dtype))
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_unit_length(dtype: torch.dtype, tolerance: float) -> None:
    _, g = maps(dtype)
    found, expected = (gradient_of(function, g) for function in (unit_length, lambda x: functional.normalize(x, dim=1)))
    assert is_channels_last(found[0])
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    somewhere = g.norm(dim=1, keepdim=True) > 0  # where there is no length there is no gradient that means anything
    torch.testing.assert_close(found[1] * somewhere, expected[1] * somewhere, rtol=tolerance, atol=tolerance)
    assert bool(torch.isfinite(found[1]).all())


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_instance_norm(dtype: torch.dtype, tolerance: float) -> None:
    f, _ = maps(dtype)
    own, plain = InstanceNorm(5), nn.InstanceNorm2d(5, affine=True)
    if dtype == torch.float64:
        own, plain = own.double(), plain.double()
    with torch.no_grad():
        own.weight.uniform_(0.5, 1.5)
        own.bias.uniform_(-1, 1)
    plain.load_state_dict(own.state_dict())
    found, expected = gradient_of(own, f), gradient_of(plain, f)
    assert is_channels_last(found[0])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    for norm in (own, plain):
        (norm(f).float() * torch.arange(4)).sum().backward()
    for one, other in zip(own.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=10 * tolerance, atol=10 * tolerance)


def test_gradients_in_float64() -> None:
    f, g = (one[:1, :3, :2, :2].contiguous(memory_format=torch.channels_last) for one in maps(torch.float64))
    g = (g + 1).requires_grad_()
    norm = InstanceNorm(3).double()
    for function in (unit_length, lambda x: cosine_of_maps(f, x), norm):
        assert torch.autograd.gradcheck(function, g)


@pytest.mark.parametrize("shape", [(2, 5, 1, 1), (2, 1, 4, 4), (2, 5, 4, 4)])
def test_left_to_torch(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert not is_channels_last(x)
    assert torch.equal(unit_length(x), functional.normalize(x, dim=1))
    assert torch.equal(cosine_of_maps(x, x + 1), torch.cosine_similarity(x.flatten(1), (x + 1).flatten(1), dim=1))


def test_gradients_into_both() -> None:
    f, g = (one.requires_grad_() for one in maps(torch.float32))
    gradients: Any = torch.autograd.grad(cosine_of_maps(f, g).sum(), (f, g))
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_traced_and_exported_as_torch() -> None:
    norm = InstanceNorm(5)
    f, _ = maps(torch.float32)
    torch.testing.assert_close(torch.jit.trace(norm, (f,))(f), norm(f))
    torch.testing.assert_close(torch.export.export(norm, (f,)).module()(f), norm(f))
