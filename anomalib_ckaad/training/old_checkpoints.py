"""Hyper-parameters of checkpoints that were written when ``Ckaad`` had other arguments."""

from collections.abc import Mapping
from typing import Any

from anomalib_ckaad.training.arguments import RESEARCH_DEFAULTS

CACHE_NAMES_BEFORE = {"feature_cache": "memory", "cache_dir": "folder", "cache_limit": "folder_limit"}
"""Arguments that became entries of ``cache``."""


def hyper_parameters_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's hyper-parameters under today's names.

    Example:
        >>> hyper_parameters_of({"hyper_parameters": {"backbone": "resnet18", "margin": 3.0, "synthetic": False}})
        {'backbone': 'resnet18', 'synthesis': False, 'research': {'margin': 3.0}}
    """
    found = dict(checkpoint.get("hyper_parameters") or {})
    if "synthetic" in found:
        found["synthesis"] = found.pop("synthetic")
    if "save_memory" in found:
        found["grad_checkpointing"] = found.pop("save_memory")
    research = {name: found.pop(name) for name in RESEARCH_DEFAULTS if name in found}
    cache = {now: found.pop(before) for before, now in CACHE_NAMES_BEFORE.items() if before in found}
    for group, entries in (("research", research), ("cache", cache)):
        if entries:
            found[group] = {**entries, **(found.get(group) or {})}
    return {name: value for name, value in found.items() if name not in GONE}


GONE = frozenset({"compile", "fold_batch_norms", "channels_last", "max_epochs"})
"""Arguments that have no successor."""
