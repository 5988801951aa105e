"""
One object over several connections, into one file.

Each connection brings part after part, by ranges of one strong ETag; a part that
is cut goes on where it stopped, over another link if need be, while the others
are not disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from ..._core.widening import Sample, Spans, Widening
from ..threads import to_the_end
from ..wire.feed import Feed
from .delivery import RandomAccess
from .renewal import Changed, DownloadState, Interrupted, Renewal
from .store import checked_part, pour, range_headers, stored

_START = 0.005
"""
Seconds in which a first connection gets going, and the loop is busy with that.
"""

_GLANCE = 0.01
"""
Seconds between looks at how fast it goes.
"""

_APART = 0.0005
"""
Seconds between two connections that are opened: their handshakes take turns with
everybody else.
"""

_SETTLING = 2
"""
Glances that a look takes once there are several: connections take a while to start.
"""


class Gauge:
    """
    Measures how a transfer goes, and how busy the loop's thread is with it.
    """

    def __init__(self, state: DownloadState, access: RandomAccess) -> None:
        self._state = state
        self._access = access
        self._load = state.session.transport.load
        self.reset()

    def reset(self) -> None:
        """
        Measure from now on.
        """
        self._received = self._state.received
        self._time = time.perf_counter()
        self._work = time.thread_time()
        self._ours = self._load.seconds
        self._waited = self._access.waited

    def read(self) -> Sample:
        """
        Return how it went since then.
        """
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
    state: DownloadState, access: RandomAccess, widening: Widening
) -> None:
    """
    Return when one connection turns out to be too few.
    """
    gauge = Gauge(state, access)
    await anyio.sleep(_START)
    gauge.reset()

    while True:
        await anyio.sleep(_GLANCE)

        if access.is_possible and widening.look(gauge.read()) > 1:
            return


class Ranges:
    """
    Brings the rest of an object whose beginning is there.
    """

    def __init__(
        self,
        state: DownloadState,
        renewal: Renewal,
        access: RandomAccess,
        widening: Widening,
        *,
        etag: str,
        link: str,
        ask: Callable[[], Awaitable[str]],
    ) -> None:
        self._state = state
        self._renewal = renewal
        self._access = access
        self._widening = widening
        self._etag = etag
        self._link = link
        self._ask = ask
        self._asking = anyio.Lock()
        self._spans = Spans(state.received, state.total or 0)
        self._running = 0
        self._failure: Exception | None = None

    async def run(self) -> None:
        """
        Bring all of it.

        Raises:
            Changed: The object is another one by now.

            IncompleteDownloadError: Several links in a row brought nothing new.
        """
        if not self._spans.left:
            return

        async with anyio.create_task_group() as group:
            group.start_soon(self._widen, group)

        if self._failure is not None:
            raise self._failure

    async def _widen(self, group: anyio.abc.TaskGroup) -> None:
        gauge = Gauge(self._state, self._access)

        while True:
            while self._running < self._widening.connections and self._spans.left:
                self._running += 1
                group.start_soon(self._work, group.cancel_scope)
                await anyio.sleep(_APART)

            for _ in range(_SETTLING):
                gauge.reset()
                await anyio.sleep(_GLANCE)

            self._widening.look(gauge.read())

    async def _work(self, scope: anyio.CancelScope) -> None:
        try:
            while span := self._spans.claim(self._widening.connections):
                await self._bring(*span)
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
                except Changed:
                    raise
                except Interrupted as reason:
                    await self._renew(link, reason)

            await writer.flush()
        finally:
            await to_the_end(writer.drop())

    async def _bring_some(
        self, link: str, writer: Feed, start: int, end: int, add: Callable[[int], None]
    ) -> None:
        headers = range_headers(self._etag, start, end)

        async with stored(self._state.session, link, headers) as answer:
            part = checked_part(
                answer, etag=self._etag, start=start, total=self._state.total
            )

            if part.length is None or part.length > end - start:
                raise Changed("the store sent more than was asked for")

            await pour(answer, writer, add)

    async def _renew(self, link: str, reason: Interrupted) -> None:
        async with self._asking:
            # Another connection may have found out first.
            if link == self._link:
                await self._renewal.after(reason)
                self._link = await self._ask()
