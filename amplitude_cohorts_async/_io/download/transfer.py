"""
The download of one job's file, over as many links as needed.

A link is good for one minute, a job's file for seven days. A link that is expired,
refused or cut is replaced by a fresh one; the transfer goes on where it stopped if
the store proves that the object is the same.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from ..._core.csvtext import Malformed
from ..._core.links import Part, part_of
from ..._core.messages import Request
from ..._core.parallelism import ParallelismController
from ..._core.secret import Secret
from ...errors import NotFoundError
from ...events import BytesReceived
from ...models import ExportStatus
from ..cancellation import background
from ..http.session import Session
from ..http.streamed_response import StreamedResponse
from ..sinks.part_record import Source, gaps_between
from .object_store import (
    DownloadState,
    LinkFailed,
    LinkRefresh,
    ObjectChanged,
    checked_part,
    open_object,
    pour,
    range_headers,
    strong,
)
from .parallel_ranges import Ranges, wait_until_throttled

if TYPE_CHECKING:
    from .to_destination import UploadReceiver
    from .to_file import FileReceiver
    from .to_reader import TextReceiver

_logger = logging.getLogger(__name__)

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "aws-chunked"})


class Transfer:
    """Brings the file of one job to a receiver."""

    def __init__(
        self,
        session: Session,
        request: Request,
        receiver: FileReceiver | TextReceiver | UploadReceiver,
        *,
        request_id: str,
        status_without_file: Callable[[int], Awaitable[ExportStatus]],
        progress: Callable[[BytesReceived], None] | None = None,
    ) -> None:
        self.state = DownloadState(
            session.context, session.transport, request_id, progress
        )
        self._session = session
        self._request = request
        self._receiver = receiver
        self._status_without_file = status_without_file
        self._refresh = LinkRefresh(self.state)
        self._controller = ParallelismController(session.transport.connections)
        # The strong tag proves that two objects are the same; empty without one.
        self._etag = ""
        # What is missing of a file that was left with holes.
        self._gaps: list[tuple[int, int]] = []

    @property
    def etag(self) -> str | None:
        """The strong tag of the object that came; None without one."""
        return self._etag or None

    async def run(self) -> None:
        """
        Bring all of it.

        Raises:
            IncompleteDownloadError: Several links in a row brought nothing new.
            ExportError: The service does not know the job any more, or it failed.
            ApiError: Amplitude refuses the file itself.
            Malformed: The bytes cannot be a file of members.
        """
        await self._take_up()

        while True:
            try:
                await self._try_link()
            except LinkFailed as reason:
                if isinstance(reason, ObjectChanged):
                    await self._start_over("")

                await self._refresh.after(reason)
            except NotFoundError as error:
                await self._refresh.after(await self._reason_for_no_file(error))
            else:
                self.state.report()
                return

    async def _reason_for_no_file(self, error: NotFoundError) -> LinkFailed:
        status = await self._status_without_file(error.status)

        return LinkFailed(
            f"the service answered {error.status} for the file of a job with the "
            f"status {status.word!r}",
            pause=None,
        )

    async def _take_up(self) -> None:
        kept = await self._receiver.take_up()

        if kept is None:
            await self._receiver.begin()
            return

        state, total = self.state, kept.source.total
        state.received = sum(end - start for start, end in kept.ranges)
        state.total, self._etag = total, kept.source.etag

        if len(kept.ranges) > 1 and total is not None:
            self._gaps = gaps_between(kept.ranges, total=total)

        facts = {"request_id": state.request_id, "received": state.received}
        _logger.info("partial file taken up", extra=facts)

    async def _try_link(self) -> None:
        async with self._session.file(self._request) as answer:
            # A link is used outside of this context, so that it holds no slot.
            if isinstance(answer, StreamedResponse):
                await self._start_over("")
                self._receiver.unbound()
                await self._take(answer)
                await self._receiver.end(is_delimited=answer.is_delimited)
                return

        self.state.links += 1
        await self._take_link(answer)

    async def _take_link(self, link: Secret) -> None:
        receiver, gaps = self._receiver.random_access, self._gaps

        if receiver is not None and gaps:
            await self._take_ranges(link, receiver, gaps)
            await receiver.end(is_delimited=True)
            return

        async with open_object(self.state, link, await self._resumption()) as answer:
            if answer.status == 200:  # noqa: PLR2004 - all of it
                await self._start_over(strong(answer.headers.get("etag")))
            else:
                self._check_continues(answer)

            spread = await self._take(answer)

        if spread is not None:
            rest = (self.state.received, self.state.total or 0)
            await self._take_ranges(link, spread, [rest])

        is_delimited = spread is not None or answer.is_delimited
        await self._receiver.end(is_delimited=is_delimited)

    async def _resumption(self) -> dict[str, str]:
        if self.state.received and not self._etag:
            # Nothing would prove that the rest belongs to these bytes.
            await self._start_over("")

        if not self.state.received:
            return {}

        return range_headers(self._etag, self.state.received)

    def _check_continues(self, answer: StreamedResponse) -> None:
        received, total = self.state.received, self.state.total

        if not received:
            raise ObjectChanged("the store sent a part, and was asked for all")

        checked_part(answer, etag=self._etag, start=received, total=total)

    async def _take(self, answer: StreamedResponse) -> FileReceiver | None:
        # Returns where the rest goes if more connections are to bring it; None when
        # all of it came.
        _check_encoding(answer.headers.get("content-encoding", ""))
        state = self.state
        part = part_of(answer.status, answer.headers) or Part(
            start=0, length=None, total=None
        )
        state.total = part.total if part.total is not None else state.total

        self._receiver.comes_from(
            Source(etag=self._etag, total=state.total) if self._etag else None
        )

        if (spread := await self._pour(answer)) is not None:
            return spread

        if part.length is not None and state.received != part.start + part.length:
            raise LinkFailed("the body was shorter than announced")

        if state.total is not None and state.received != state.total:
            raise LinkFailed("the store sent less than the rest")

        return None

    async def _pour(self, answer: StreamedResponse) -> FileReceiver | None:
        receiver = self._receiver.random_access
        pouring = pour(answer, self._receiver.consumer, self.state.add)

        if receiver is None or not self._may_spread(answer):
            await pouring
            return None

        async def watch() -> None:
            await wait_until_throttled(self.state, receiver, self._controller)
            scope.cancel()

        with anyio.CancelScope() as scope:
            async with background(watch()):
                await pouring

        return receiver if scope.cancelled_caught else None

    def _may_spread(self, answer: StreamedResponse) -> bool:
        return (
            self.state.transport.connections > 1
            and self._etag != ""
            and self.state.total is not None
            and answer.headers.get("accept-ranges") == "bytes"
        )

    async def _take_ranges(
        self, link: Secret, receiver: FileReceiver, gaps: list[tuple[int, int]]
    ) -> None:
        await receiver.reserve(self.state.total or 0)
        ranges = Ranges(
            state=self.state,
            refresh=self._refresh,
            receiver=receiver,
            controller=self._controller,
            etag=self._etag,
            gaps=gaps,
            link=link,
            fresh_link=self._fresh_link,
        )
        # If they fail, one connection brings all of it.
        self._controller = ParallelismController(1)
        await ranges.run()

    async def _fresh_link(self) -> Secret:
        async with self._session.file(self._request) as answer:
            if isinstance(answer, StreamedResponse):
                raise ObjectChanged(
                    "the service sent the file itself, after links to it"
                )

        self.state.links += 1

        return answer

    async def _start_over(self, etag: str) -> None:
        if self.state.received:
            self.state.reset()
            self._gaps = []
            await self._receiver.begin()

        self._etag = etag


def _check_encoding(encodings: str) -> None:
    names = {name.strip().lower() for name in encodings.split(",")}

    if not names <= _ENCODINGS:
        raise Malformed(
            f"it came encoded as {encodings!r}, which was not asked for; look for a "
            f"proxy that encodes it again"
        )
