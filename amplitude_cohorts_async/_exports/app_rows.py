"""
The rows of one app in its job store, and what every change of them needs.

A store that fails after a purchase loses no id: what could not be stored is stored
before anything else is read, and at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import chain, repeat
from typing import TypeAlias, TypeVar

from .._core.job_rows import (
    CohortRows,
    IsAlive,
    Lease,
    Rows,
    read_cohort,
    write_cohort,
)
from .._io.cancellation import background, finish_despite_cancel
from .._io.context import Clock
from .._io.jobs.base import JobStore
from .._io.machine import has_ended, this_process
from .._io.waits import WaitLog
from ..errors import JobStoreUnavailableError

T = TypeVar("T")

Change: TypeAlias = Callable[[CohortRows], T]
"""Reads and changes the rows of a cohort."""


_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
"""
Seconds between questions what another process has done; the last one repeats. A store
does not tell when its rows change.
"""


class AppRows:
    """The rows of one app; a cohort's are changed as a whole."""

    def __init__(self, store: JobStore, app: str, clock: Clock) -> None:
        self.store = store
        self.app = app
        self.waits: WaitLog = WaitLog()
        self._clock = clock
        self._owner = this_process if store.local else _no_name
        self._unsaved: list[tuple[str, Change[None]]] = []
        self._pending: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Store what is not stored yet."""
        await self.settle()

        for cohort_id in {cohort_id for cohort_id, _ in self._unsaved}:
            with suppress(JobStoreUnavailableError):
                await self.transact(cohort_id, lambda _rows: None)

    async def cohort_ids(self) -> list[str]:
        """Return the cohorts that have rows."""
        groups = await finish_despite_cancel(self.store.groups(self.app))
        prefix = _cohort("")

        return [
            group.removeprefix(prefix) for group in groups if group.startswith(prefix)
        ]

    async def transact(self, cohort_id: str, change: Change[T]) -> T:
        """
        Run *change* on the rows of a cohort, atomically; a cancellation waits.

        Raises:
            JobStoreUnavailableError: Nothing was changed.
        """
        unsaved = [entry for entry in self._unsaved if entry[0] == cohort_id]

        def work(rows: Rows, now: float) -> T:
            """Make up for what could not be stored, then change."""
            cohort = read_cohort(rows)
            cohort.at, cohort.now = self.utcnow(), now
            cohort.is_alive = self._is_alive_at(now)
            for _, missed in unsaved:
                missed(cohort)
            result = change(cohort)
            write_cohort(rows, cohort)
            return result

        result = await finish_despite_cancel(
            self.store.transact(self.app, _cohort(cohort_id), work)
        )
        self._unsaved = [entry for entry in self._unsaved if entry not in unsaved]

        return result

    async def save(self, cohort_id: str, change: Change[None]) -> bool:
        """
        Run *change* now, or as soon as the store is back; return whether it is stored.

        For what has happened already: it must not be lost, nor hold up its caller.
        """
        try:
            await self.transact(cohort_id, change)
        except JobStoreUnavailableError:
            self._unsaved.append((cohort_id, change))
            return False

        return True

    def now(self) -> float:
        """Return the seconds of the client's clock."""
        return self._clock.now()

    def utcnow(self) -> datetime:
        """Return the date and time of the client's clock."""
        return self._clock.utcnow()

    def in_background(self, work: Awaitable[None]) -> None:
        """
        Run *work* in the background; the next call and `aclose()` wait for it.

        So a call records that it returned: if it waited until that is stored, it
        could be cancelled after the record, and would not return.
        """
        task = asyncio.ensure_future(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def lease(self, number: int, now: float) -> Lease:
        """Return a lease of this process, from *now* on."""
        return Lease(owner=self._owner(), number=number, until=now + self.store.lease)

    @asynccontextmanager
    async def renewed(
        self, renew: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[None]:
        """Renew a lease until the context is left."""

        async def renewing() -> None:
            """Renew it three times in its life."""
            while True:
                await asyncio.sleep(self.store.lease / 3)
                with suppress(JobStoreUnavailableError):
                    await renew()

        async with background(renewing()):
            yield

    def _is_alive_at(self, now: float) -> IsAlive:
        def is_alive(lease: Lease | None) -> bool:
            """Whether a lease may be held by a running call."""
            if lease is None or lease.until <= now:
                return False

            return not self.store.local or not has_ended(lease.owner)

        return is_alive

    async def settle(self) -> None:
        """Wait until no work runs in the background."""
        if self._pending:
            await asyncio.wait(self._pending)


def pauses() -> Iterator[float]:
    """Yield the seconds between questions what another process has done."""
    return chain(_PAUSES, repeat(_PAUSES[-1]))


def _no_name() -> str:
    return ""


def _cohort(cohort_id: str) -> str:
    return f"cohort:{cohort_id}"
