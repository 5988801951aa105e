"""
How much memory this process has needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ("peak_memory",)

_STATUS = Path("/proc/self/status")


def peak_memory() -> int | None:
    """
    Return the most bytes this process ever had in memory; None if untold.
    """
    # Linux passes the peak of getrusage() on from parent to child, so that a
    # small program begun by a large one seems large. This one it does not.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024

    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    return peak if sys.platform == "darwin" else peak * 1024
