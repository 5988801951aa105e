"""The time since the machine was started, which all of its processes share."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from ..context import SystemClock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Unlike the monotonic clock of Linux, this one runs on while the machine sleeps.
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class BootClock(SystemClock):
    """The time since the machine was started; no change of the date moves it."""

    def now(self) -> float:
        """Return the seconds since the start; callable in any thread."""
        return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


@cache
def boot_id() -> str:
    """
    Return what names this run of the machine; empty where the system names none.

    Without a name a restart shows by a clock that has gone back. Where it has not, the
    new run has lasted for longer than the old one had when something was noted last:
    long enough for all of that to be over.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
