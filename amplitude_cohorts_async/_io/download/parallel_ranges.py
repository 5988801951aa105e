"""
One object over several connections, into one file.

Each connection brings part after part, by ranges of one strong ETag; a part that
is cut goes on where it stopped, over another link if need be, while the others
are not disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from ..._core.parallelism import ParallelismController, RangeAllocator, Sample
from ..cancellation import finish_despite_cancel
from ..sinks.disk_writer import DiskWriter
from .object_store import (
    DownloadState,
    LinkFailed,
    LinkRefresh,
    ObjectChanged,
    checked_part,
    open_object,
    pour,
    range_headers,
)

if TYPE_CHECKING:
    from .to_file import RandomAccess

_WARM_UP = 0.005
"""Seconds in which a first connection gets going, and the loop is busy with that."""

_MEASURE_SECONDS = 0.01
"""Seconds between two measurements."""

_CONNECT_SECONDS = 0.0005
"""
Seconds between two connections that are opened: their handshakes take turns with
the other tasks.
"""

_SETTLE_MEASUREMENTS = 2
"""
Measurements before the last one counts, once there are several connections: they
take a while to start.
"""


class Gauge:
    """Measures how a transfer goes, and how busy the loop's thread is with it."""

    def __init__(self, state: DownloadState, access: RandomAccess) -> None:
        self._state = state
        self._access = access
        self._load = state.transport.load
        self.reset()

    def reset(self) -> None:
        """Measure from now on."""
        self._received = self._state.received
        self._time = time.perf_counter()
        self._work = time.thread_time()
        self._ours = self._load.seconds
        self._waited = self._access.waited

    def read(self) -> Sample:
        """Return how it went since then."""
        seconds = time.perf_counter() - self._time
        received = self._state.received

        return Sample(
            rate=(received - self._received) / seconds,
            busy=(time.thread_time() - self._work) / seconds,
            ours=(self._load.seconds - self._ours) / seconds,
            waiting=(self._access.waited - self._waited) / seconds,
            left=(self._state.total or received) - received,
        )


async def throttled(
    state: DownloadState, access: RandomAccess, controller: ParallelismController
) -> None:
    """Return when one connection turns out to be too few."""
    gauge = Gauge(state, access)
    await anyio.sleep(_WARM_UP)
    gauge.reset()

    while True:
        await anyio.sleep(_MEASURE_SECONDS)

        if access.is_possible and controller.update(gauge.read()) > 1:
            return


class Ranges:
    """Brings the rest of an object whose beginning is there."""

    def __init__(
        self,
        state: DownloadState,
        refresh: LinkRefresh,
        access: RandomAccess,
        controller: ParallelismController,
        *,
        etag: str,
        link: str,
        ask: Callable[[], Awaitable[str]],
    ) -> None:
        self._state = state
        self._refresh = refresh
        self._access = access
        self._controller = controller
        self._etag = etag
        self._link = link
        self._ask = ask
        self._asking = anyio.Lock()
        self._ranges = RangeAllocator(state.received, state.total or 0)
        self._running = 0
        self._failure: Exception | None = None

    async def run(self) -> None:
        """
        Bring all of it.

        Raises:
            ObjectChanged: The object is another one by now.

            IncompleteDownloadError: Several links in a row brought nothing new.
        """
        if not self._ranges.left:
            return

        async with anyio.create_task_group() as group:
            group.start_soon(self._widen, group)

        if self._failure is not None:
            raise self._failure

    async def _widen(self, group: anyio.abc.TaskGroup) -> None:
        gauge = Gauge(self._state, self._access)

        while True:
            while self._running < self._controller.connections and self._ranges.left:
                self._running += 1
                group.start_soon(self._work, group.cancel_scope)
                await anyio.sleep(_CONNECT_SECONDS)

            for _ in range(_SETTLE_MEASUREMENTS):
                gauge.reset()
                await anyio.sleep(_MEASURE_SECONDS)

            self._controller.update(gauge.read())

    async def _work(self, scope: anyio.CancelScope) -> None:
        try:
            while part := self._ranges.claim(self._controller.connections):
                await self._bring(*part)
        except Exception as error:  # noqa: BLE001 - raised when all have ended
            self._failure = self._failure or error
            scope.cancel()
        else:
            self._running -= 1

            if not self._running:
                scope.cancel()

    async def _bring(self, start: int, end: int) -> None:
        writer = self._access.writer_at(start)

        def add(count: int) -> None:
            nonlocal start
            start += count
            self._state.add(count)

        try:
            while start < end:
                link = self._link

                try:
                    await self._bring_some(link, writer, start, end, add)
                except ObjectChanged:
                    raise
                except LinkFailed as reason:
                    await self._renew(link, reason)

            await writer.flush()
        finally:
            await finish_despite_cancel(writer.drop())

    async def _bring_some(
        self,
        link: str,
        writer: DiskWriter,
        start: int,
        end: int,
        add: Callable[[int], None],
    ) -> None:
        headers = range_headers(self._etag, start, end)

        async with open_object(self._state, link, headers) as answer:
            part = checked_part(
                answer, etag=self._etag, start=start, total=self._state.total
            )

            if part.length is None or part.length > end - start:
                raise ObjectChanged("the store sent more than was asked for")

            await pour(answer, writer, add)

    async def _renew(self, link: str, reason: LinkFailed) -> None:
        async with self._asking:
            # Another connection may have found out first.
            if link == self._link:
                await self._refresh.after(reason)
                self._link = await self._ask()
