"""
One job's file, whole, over as many links as it takes.

A link lives one minute, and a job's file seven days: a link that is expired,
refused or cut is replaced by a fresh one, and the transfer goes on where it
stopped when the store proves that the object is the same one.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeGuard

import anyio

from ..._core.csvtext import Malformed
from ..._core.links import Part, part_of
from ..._core.widening import Widening
from ..._core.wire import Request
from ...events import BytesReceived
from ..session import Session
from ..threads import background
from ..wire.answer import Answer
from ..wire.feed import Taker
from .delivery import AnyDelivery, Delivery
from .ranges import Ranges, throttled
from .renewal import Changed, Interrupted, Progress, Renewal
from .store import checked_part, pour, range_headers, stored, strong

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "aws-chunked"})


class Receiver(Protocol):
    """
    Takes the bytes of a file in order; a second beginning voids the first.
    """

    @property
    def feed(self) -> Taker:
        """
        Where the bytes go, in order.
        """
        ...

    async def begin(self) -> None:
        """
        Expect the first byte next.
        """
        ...

    def hurry(self) -> None:
        """
        Take what comes as fast as it comes: its sender holds a slot meanwhile.
        """
        ...

    async def end(self, *, is_delimited: bool) -> None:
        """
        Take note that this was all the wire brought.

        Args:
            is_delimited: Whether a cut would have been noticed; if not, the
                bytes themselves have to prove their end.
        """
        ...


class Transfer:
    """
    Brings the file that a request names to a receiver.

    Attributes:
        progress: How far it is.
    """

    def __init__(
        self,
        session: Session,
        request: Request,
        receiver: Receiver,
        *,
        request_id: str,
        progress: Callable[[BytesReceived], None] | None = None,
    ) -> None:
        self.progress = Progress(session, request_id, progress)
        self._session = session
        self._request = request
        self._receiver = receiver
        self._renewal = Renewal(self.progress)
        self._widening = Widening(session.transport.connections)
        self._etag: str | None = None

    async def run(self) -> None:
        """
        Bring all of it.

        Raises:
            IncompleteDownloadError: Several links in a row brought nothing new.

            ApiError: Amplitude refuses the file itself.

            Malformed: What came cannot be a file of members.
        """
        await self._receiver.begin()

        while True:
            try:
                await self._try()
            except Interrupted as reason:
                if isinstance(reason, Changed):
                    await self._start_over(None)

                await self._renewal.after(reason)
            else:
                self.progress.report()
                return

    async def _try(self) -> None:
        async with self._session.file(self._request) as answer:
            # A link leaves the context at once: nothing here holds its slot.
            if isinstance(answer, Answer):
                await self._start_over(None)
                self._receiver.hurry()
                await self._take(answer)
                await self._receiver.end(is_delimited=answer.is_delimited)
                return

        self.progress.links += 1
        await self._take_link(answer)

    async def _take_link(self, link: str) -> None:
        async with stored(self._session, link, await self._resumption()) as answer:
            if answer.status == 200:  # noqa: PLR2004 - all of it, asked for or not
                await self._start_over(strong(answer.headers.get("etag")))
            else:
                self._check_continues(answer)

            is_throttled = await self._take(answer)

        if is_throttled:
            await self._take_ranges(link)

        is_delimited = is_throttled or answer.is_delimited
        await self._receiver.end(is_delimited=is_delimited)

    async def _resumption(self) -> dict[str, str]:
        if self.progress.received and self._etag is None:
            # Nothing would prove that the rest belongs to what we have.
            await self._start_over(None)

        if not self.progress.received or self._etag is None:
            return {}

        return range_headers(self._etag, self.progress.received)

    def _check_continues(self, answer: Answer) -> None:
        received, total = self.progress.received, self.progress.total

        if not received:
            raise Changed("the store sent a part, and was asked for all")

        checked_part(answer, etag=self._etag, start=received, total=total)

    async def _take(self, answer: Answer) -> bool:
        """
        Take what an answer brings; tell whether more connections have to help.
        """
        _check_encoding(answer.headers.get("content-encoding", ""))
        progress = self.progress
        part = part_of(answer.status, answer.headers) or Part(
            start=0, length=None, total=None
        )
        progress.total = part.total if part.total is not None else progress.total

        if await self._pour(answer):
            return True

        if part.length is not None and progress.received != part.start + part.length:
            raise Interrupted("the body was shorter than announced")

        if progress.total is not None and progress.received != progress.total:
            raise Interrupted("the store sent less than the rest")

        return False

    async def _pour(self, answer: Answer) -> bool:
        receiver, progress = self._receiver, self.progress
        pouring = pour(answer, receiver.feed, progress.note)

        if not self._may_spread(answer) or not _is_delivery(receiver):
            await pouring
            return False

        async def watch() -> None:
            await throttled(progress, receiver, self._widening)
            scope.cancel()

        with anyio.CancelScope() as scope:
            async with background(watch()):
                await pouring

        return scope.cancelled_caught

    def _may_spread(self, answer: Answer) -> bool:
        return (
            self._session.transport.connections > 1
            and self._etag is not None
            and self.progress.total is not None
            and answer.headers.get("accept-ranges") == "bytes"
        )

    async def _take_ranges(self, link: str) -> None:
        receiver, progress = self._receiver, self.progress

        if not _is_delivery(receiver) or self._etag is None:
            raise TypeError("these bytes have to come in order")

        if progress.total is not None:
            await receiver.spread(progress.total)

        ranges = Ranges(
            progress,
            self._renewal,
            receiver,
            # Should this fail, one connection brings it all.
            widening=self._widening,
            etag=self._etag,
            link=link,
            ask=self._ask,
        )
        self._widening = Widening(1)
        await ranges.run()

    async def _ask(self) -> str:
        async with self._session.file(self._request) as answer:
            if isinstance(answer, Answer):
                raise Changed("the file came by itself, after links to it")

        self.progress.links += 1

        return answer

    async def _start_over(self, etag: str | None) -> None:
        if self.progress.received:
            self.progress.reset()
            await self._receiver.begin()

        self._etag = etag


def _check_encoding(encodings: str) -> None:
    asked_for = {word.strip().lower() for word in encodings.split(",")} <= _ENCODINGS

    if not asked_for:
        raise Malformed(
            f"it came encoded as {encodings!r}, which was not asked for; look for a "
            f"proxy that encodes anew"
        )


def _is_delivery(receiver: Receiver) -> TypeGuard[AnyDelivery]:
    return isinstance(receiver, Delivery)
