"""
One object over several connections, into one file.

Each connection brings part after part, as ranges of one strong ETag. A part that is
cut goes on where it stopped, over another link if needed, without disturbing the
others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import attrs

from ..._core.parallelism import ParallelismController, RangeAllocator, Sample
from ..._core.secret import Secret
from ..cancellation import finish_despite_cancel
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
    from ..http.streamed_response import StreamedResponse
    from .to_file import FileReceiver

_WARM_UP = 0.005
"""Seconds until a first connection is at speed; the loop is busy with it."""

_MEASURE_SECONDS = 0.01
"""Seconds between two measurements."""

_HANDSHAKE_GAP = 0.0005
"""Seconds between two handshakes, so that other tasks run in between."""

_SETTLE_MEASUREMENTS = 2
"""Measurements of several connections before one counts: they start slowly."""


class Gauge:
    """Measures the rate of a transfer, and how busy the loop's thread is with it."""

    def __init__(self, state: DownloadState, receiver: FileReceiver) -> None:
        self._state = state
        self._receiver = receiver
        self._fast = state.transport.fast
        self.reset()

    def reset(self) -> None:
        """Measure from now on."""
        self._received = self._state.received
        self._time = time.perf_counter()
        self._work = time.thread_time()
        self._receiving = self._fast.seconds
        self._waited = self._receiver.waited

    def read(self) -> Sample:
        """Return the measurement since `reset()`."""
        seconds = time.perf_counter() - self._time
        received = self._state.received

        return Sample(
            rate=(received - self._received) / seconds,
            busy=(time.thread_time() - self._work) / seconds,
            ours=(self._fast.seconds - self._receiving) / seconds,
            waiting=(self._receiver.waited - self._waited) / seconds,
            left=(self._state.total or received) - received,
        )


async def wait_until_throttled(
    state: DownloadState, receiver: FileReceiver, controller: ParallelismController
) -> None:
    """Wait until one connection turns out to be too few."""
    gauge = Gauge(state, receiver)
    await anyio.sleep(_WARM_UP)
    gauge.reset()

    while True:
        await anyio.sleep(_MEASURE_SECONDS)

        if receiver.takes_any_order and controller.update(gauge.read()) > 1:
            return


@attrs.define(kw_only=True, eq=False)
class Ranges:
    """Brings what is missing of an object over as many connections as pay."""

    state: DownloadState
    refresh: LinkRefresh
    receiver: FileReceiver
    controller: ParallelismController
    etag: str
    gaps: Sequence[tuple[int, int]]
    link: Secret
    fresh_link: Callable[[], Awaitable[Secret]]
    _renewing: anyio.Lock = attrs.field(init=False, factory=anyio.Lock)
    _ranges: RangeAllocator = attrs.field(init=False)
    _running: int = attrs.field(init=False, default=0)
    _failure: Exception | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._ranges = RangeAllocator(self.gaps)

    async def run(self) -> None:
        """
        Bring all of it.

        Raises:
            ObjectChanged: The object was replaced in the store.
            IncompleteDownloadError: Several links in a row brought nothing new.
        """
        if not self._ranges.left:
            return

        async with anyio.create_task_group() as group:
            group.start_soon(self._widen, group)

        if self._failure is not None:
            raise self._failure

    async def _widen(self, group: anyio.abc.TaskGroup) -> None:
        gauge = Gauge(self.state, self.receiver)

        while True:
            while self._running < self.controller.connections and self._ranges.left:
                self._running += 1
                group.start_soon(self._work, group.cancel_scope)
                await anyio.sleep(_HANDSHAKE_GAP)

            for _ in range(_SETTLE_MEASUREMENTS):
                gauge.reset()
                await anyio.sleep(_MEASURE_SECONDS)

            self.controller.update(gauge.read())

    async def _work(self, scope: anyio.CancelScope) -> None:
        try:
            while part := self._ranges.claim(self.controller.connections):
                await self._bring(*part)
        except Exception as error:  # noqa: BLE001 - raised when all have ended
            self._failure = self._failure or error
            scope.cancel()
        else:
            self._running -= 1

            if not self._running:
                scope.cancel()

    async def _bring(self, start: int, end: int) -> None:
        writer = self.receiver.writer_at(start)

        def add(count: int) -> None:
            nonlocal start
            start += count
            self.state.add(count)

        try:
            while start < end:
                link = self.link

                try:
                    async with self._open(link, start, end) as answer:
                        await pour(answer, writer, add)
                except ObjectChanged:
                    raise
                except LinkFailed as reason:
                    await self._renew(link, reason)

            await writer.flush()
        finally:
            await finish_despite_cancel(writer.drop())

    @asynccontextmanager
    async def _open(
        self, link: Secret, start: int, end: int
    ) -> AsyncGenerator[StreamedResponse]:
        headers = range_headers(self.etag, start, end)

        async with open_object(self.state, link, headers) as answer:
            part = checked_part(
                answer, etag=self.etag, start=start, total=self.state.total
            )

            if part.length is None or part.length > end - start:
                raise ObjectChanged("the store sent more than was asked for")

            yield answer

    async def _renew(self, link: Secret, reason: LinkFailed) -> None:
        async with self._renewing:
            # Another connection may have renewed it already.
            if link == self.link:
                await self.refresh.after(reason)
                self.link = await self.fresh_link()
