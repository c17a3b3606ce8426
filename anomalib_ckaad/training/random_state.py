"""torch's random state as plain data, so that a resumed training goes on as the uninterrupted one would have."""

from typing import Any

import torch


def get_random_state() -> dict[str, Any]:
    """States of torch's generators, which draw the order of images, the synthetic anomalies and workers' seeds."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``get_random_state`` gave; a GPU that is not here now is passed over.

    Example:
        >>> state = get_random_state()
        >>> first = torch.rand(3)
        >>> set_random_state(state)
        >>> bool((torch.rand(3) == first).all())
        True
    """
    torch.set_rng_state(state["cpu"].cpu())
    for device, cuda_state in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)
