"""What torch tells only by private names: whether it records, how often a tensor changed, what the processor can do."""

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether operations are being recorded, to be compiled or exported."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def version_of(tensor: Tensor) -> int:
    """A number that grows with each change of a tensor in place."""
    return tensor._version


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in hardware: x86 with AMX or AVX512-BF16.

    Others, among them ARM's, differ too much in what their builds of torch make of it.
    """
    if not bool(torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
