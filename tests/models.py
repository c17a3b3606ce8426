"""Small models for tests."""

from typing import Any

from anomalib_ckaad.lightning_model import Ckaad
from anomalib_ckaad.training.arguments import RESEARCH_DEFAULTS


def make_ckaad(*args: Any, **arguments: Any) -> Ckaad:
    """A ``Ckaad`` whose arguments for research may be given beside the others."""
    research = {name: arguments.pop(name) for name in RESEARCH_DEFAULTS if name in arguments}
    if research:
        arguments["research"] = {**research, **arguments.get("research", {})}
    return Ckaad(*args, **arguments)
