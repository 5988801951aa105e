"""
One memory store for each app, shared by all its clients in this process.

A cancelled call must not lose its export when its client is closed: the store of an
app stays for the life of the process. A custom clock has stores of its own, which
live as long as the clock. This state of the module is guarded by a lock.
"""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from ..context import Clock
from .memory import MemoryJobStore

_mutex = threading.Lock()
_stores: dict[str, MemoryJobStore] = {}
_of_clock: WeakKeyDictionary[Clock, dict[str, MemoryJobStore]] = WeakKeyDictionary()


def memory_store_for(app: str, clock: Clock | None) -> MemoryJobStore:
    """Return the memory store of an app."""
    with _mutex:
        try:
            stores = _stores if clock is None else _of_clock.setdefault(clock, {})
        except TypeError:
            # A clock that cannot be referred to weakly.
            stores = {}

        return stores.setdefault(app, MemoryJobStore())
