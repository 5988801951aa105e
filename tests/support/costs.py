"""What a piece of code costs: memory at its peak, and the event loop's thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

_STATUS = Path("/proc/self/status")


@attrs.define
class Costs:
    """
    What was measured.

    Attributes:
        longest_callback: Seconds of CPU time that the loop's thread gave to the longest
            callback; other threads and other programs do not count.
        memory: Bytes by which the process grew at its peak.
    """

    longest_callback: float = 0.0
    memory: int = 0


@contextmanager
def measured() -> Iterator[Costs]:
    """Measure what this context costs; for Linux, and for asyncio's own loop."""
    costs = Costs()
    thread, run = threading.get_ident(), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        if threading.get_ident() != thread:
            run(handle)
            return

        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        costs.longest_callback = max(costs.longest_callback, took)

    gc.collect()
    # Forgets the peak so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _read("VmRSS")
    asyncio.Handle._run = timed  # type: ignore[method-assign]

    try:
        yield costs
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        costs.memory = _read("VmHWM") - before


def _read(name: str) -> int:
    (line,) = [
        line for line in _STATUS.read_text().splitlines() if line.startswith(name)
    ]

    return int(line.split()[1]) << 10
