"""Arguments of ``Ckaad`` under the names they had when older checkpoints were written."""

from collections.abc import Mapping
from typing import Any

from anomalib_ckaad.training.arguments import RESEARCH_DEFAULTS

CACHE_NAMES_BEFORE = {"feature_cache": "memory", "cache_dir": "folder", "cache_limit": "folder_limit"}
"""Arguments that became entries of ``cache``."""
GONE = frozenset({"compile", "fold_batch_norms", "channels_last", "max_epochs"})
"""Arguments that have no successor."""


def todays(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under today's names; those without a successor stay as they are.

    Example:
        >>> todays({"backbone": "resnet18", "margin": 3.0, "synthetic": False, "cache_dir": "features"})
        {'backbone': 'resnet18', 'synthesis': False, 'research': {'margin': 3.0}, 'cache': {'folder': 'features'}}
    """
    found = dict(arguments)
    if "synthetic" in found:
        found["synthesis"] = found.pop("synthetic")
    if "save_memory" in found:
        found["grad_checkpointing"] = found.pop("save_memory")
    research = {name: found.pop(name) for name in RESEARCH_DEFAULTS if name in found}
    cache = {now: found.pop(before) for before, now in CACHE_NAMES_BEFORE.items() if before in found}
    for group, entries in (("research", research), ("cache", cache)):
        if entries:
            found[group] = {**entries, **(found.get(group) or {})}
    return found


def hyper_parameters_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's hyper-parameters under today's names, without those that have no successor."""
    found = todays(checkpoint.get("hyper_parameters") or {})
    return {name: value for name, value in found.items() if name not in GONE}
