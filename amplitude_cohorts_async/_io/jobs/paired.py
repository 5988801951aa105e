"""A job store in memory beside a durable one that only some calls use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from ..._core.job_rows import Rows, merged, shifted
from ...errors import JobStoreUnavailableError
from .base import JobStore, Work
from .memory import MemoryJobStore

T = TypeVar("T")


class PairedJobStore(JobStore):
    """
    What one of two stores has, both have after the next change.

    `export_many()` keeps a store in its directory when its client has none that
    outlives the process, and still joins what the client's other calls requested.
    """

    durable = True
    local = True

    def __init__(self, memory: MemoryJobStore, beside: JobStore) -> None:
        self._memory = memory
        self._beside = beside

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run *work* on the rows of both stores; see `JobStore`."""
        before: dict[str, str] = {}
        after: dict[str, str] = {}

        def in_both(rows: Rows, now: float) -> T:
            """Work on the rows of both, and give both the result."""

            def in_memory(others: Rows, memory_now: float) -> T:
                """Work in the memory's own transaction, which begins last."""
                # The memory's clock starts with the machine, the other one goes on: a
                # lease of the last boot would be held for days.
                ahead = now - memory_now
                before.update(others)
                both = merged(rows, shifted(others, ahead))
                result = work(both, now)
                after.update(shifted(both, -ahead))
                _copy(both, rows)
                _copy(after, others)
                return result

            return self._memory.change(app, group, in_memory)

        def undo(rows: Rows, _now: float) -> None:
            """Take the memory's part back, if it was not changed again."""
            if rows == after:
                _copy(before, rows)

        try:
            return await self._beside.transact(app, group, in_both)
        except JobStoreUnavailableError:
            # What could not be stored durably has not happened.
            self._memory.change(app, group, undo)
            raise

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of both stores."""
        return sorted(
            {*await self._memory.groups(app), *await self._beside.groups(app)}
        )

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """Wait for those, too, who use the memory alone; see `JobStore`."""
        return self._memory.lock(name)

    async def aclose(self) -> None:
        """Close the durable store; the memory stays."""
        await self._beside.aclose()


def _copy(source: Mapping[str, str], to: Rows) -> None:
    to.clear()
    to.update(source)
