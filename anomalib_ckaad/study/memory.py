"""Peak memory of a process; imports only the standard library, so that it costs no memory itself."""

import math
import sys
from pathlib import Path


def peak_memory() -> float:
    """Peak memory of this process in MiB; NaN on Windows.

    Elsewhere than on Linux, it is the peak of the parent process where that was higher.

    Example:
        >>> peak_memory() > 1
        True
    """
    status = Path("/proc/self/status")
    if status.exists():  # getrusage begins with the peak of the parent
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(line.split()[1]) / 1024
    if sys.platform == "win32":
        return math.nan
    import resource  # noqa: PLC0415 - Windows does not have it

    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
