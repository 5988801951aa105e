"""The job store of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TypeVar

from .base import JobStore, Work

T = TypeVar("T")


class MemoryJobStore(JobStore):
    """
    Keeps rows in this process, for any number of clients, loops and threads.

    What it keeps survives cancellations, time-outs and errors, but not the process.
    """

    def __init__(self) -> None:
        # Clients of one app may live in several threads.
        self._mutex = threading.Lock()
        self._rows: dict[str, dict[str, dict[str, str]]] = {}

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run *work* on the rows of a group, atomically; see `JobStore`."""
        return self.change(app, group, work)

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of an app that have rows."""
        with self._mutex:
            return [*self._rows.get(app, {})]

    def change(self, app: str, group: str, work: Work[T]) -> T:
        """Run *work* as `transact()` does, in the calling thread."""
        with self._mutex:
            groups = self._rows.get(app, {})
            rows = dict(groups.get(group, {}))
            result = work(rows, time.monotonic())

            if rows:
                self._rows.setdefault(app, groups)[group] = rows
            else:
                groups.pop(group, None)

        return result
