"""Where the plugin keeps files that can be made or fetched again."""

import os
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "ANOMALIB_CKAAD_CACHE"


def cache_root() -> Path:
    """Folder that ``ANOMALIB_CKAAD_CACHE`` names, else ``~/.cache/anomalib-ckaad``."""
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own).expanduser() if own else Path.home() / ".cache" / "anomalib-ckaad"
