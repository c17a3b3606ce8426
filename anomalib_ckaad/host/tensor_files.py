"""Why torch, pickle or safetensors could not load a file of tensors: their errors say it in words only."""

import pickle
import re
from typing import Final

FORBIDDEN: Final = re.compile(r"GLOBAL ([\w.]+)|type ([\w.]+) whose|(?:class|function) '?([\w.]+)")
"""How ``torch.load(..., weights_only=True)`` names what it refuses to import from a pickle."""


def loading_error(path: object, error: Exception) -> str:
    """What to say when a file of tensors cannot be loaded: it holds code, or it is damaged.

    Args:
        path: The file.
        error: What ``torch.load(..., weights_only=True)`` or safetensors raised.

    Example:
        >>> loading_error("a.ckpt", EOFError("Ran out of input"))
        'a.ckpt cannot be read as a file of tensors (EOFError). Copy it again from where it was written.'
    """
    found = FORBIDDEN.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found is not None:
        name = next(filter(None, found.groups()))
        return (
            f"{path} was not loaded: it asks for {name}, code that would run on loading. Use a file with tensors and "
            "plain data only. Load this one by other means only if you trust its source."
        )
    return (
        f"{path} cannot be read as a file of tensors ({type(error).__name__}). Copy it again from where it was written."
    )
