"""The machine's boot, its clock, and which of its processes have ended."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_START_TIME = 19
"""The field of /proc/PID/stat, counted from the one behind the program's name."""


def this_boot() -> str:
    """Return a name of the machine's present boot; empty where it shows none."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()

    return ""


def seconds_since_boot() -> float:
    """Return the time on a clock that no one sets, and that counts sleep if it can."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    return time.monotonic()


def this_process() -> str:
    """
    Return a name of this process that no other has, on any machine.

    The first call in a process reads files of the system. Where there are none, the
    name is the process id alone: it is for people, `has_ended()` cannot use it.
    """
    return _named(os.getpid())


@cache
def _named(pid: int) -> str:
    place = _place()

    return f"{place}/{pid}.{_started(pid)}" if place else f"/{pid}"


def has_ended(owner: str) -> bool:
    """
    Whether the process that a lease names has certainly ended.

    Only that of the same boot and the same container can be looked at: of all
    others, False is returned, and the end of the lease decides.
    """
    pid, _, started = owner.rpartition("/")[2].partition(".")

    return is_visible(owner) and _started(int(pid)) != started


def is_visible(owner: str) -> bool:
    """Whether it can be seen from here if the process has ended."""
    place = owner.rpartition("/")[0]

    return bool(place) and place == _place()


def _place() -> str:
    # Two containers of one machine share its boot, but not their process ids.
    boot = this_boot()

    with suppress(OSError):
        return boot and f"{boot}:{_PID_NAMESPACE.readlink()}"

    return ""


def _started(pid: int) -> str:
    # A process id is used again; with its start it is not. A zombie has ended.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""

    return "" if fields[0] in {"Z", "X"} else fields[_START_TIME]
