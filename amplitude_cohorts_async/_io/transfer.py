"""
One job's file, whole, over as many links as it takes.

A link lives one minute, and a job's file seven days: a link that is expired,
refused or cut is replaced by a fresh one, and the transfer goes on where it
stopped when the store proves that the object is the same one.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Protocol

from .._core.links import Part, link_target, part_of
from .._core.malformed import Malformed
from .._core.redact import redact_links
from .._core.responses import retry_after
from .._core.wire import Request
from ..errors import IncompleteDownloadError, TransportError
from ..events import BytesReceived, LinkRenewed
from .answer import Answer
from .session import Session
from .takeover import Taker

_logger = logging.getLogger(__name__)

_FRUITLESS_LINKS = 5
_REDIRECTS = 3
_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "aws-chunked"})
_REPORT_EVERY = 1 << 20
_SLOW_DOWN = frozenset({429, 500, 502, 503, 504})
_STORE_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


class Receiver(Protocol):
    """
    Takes the bytes of a file in order; a second beginning voids the first.
    """

    async def begin(self) -> None:
        """
        Expect the first byte next.
        """
        ...

    @property
    def feed(self) -> Taker:
        """
        Where the bytes go, in order.
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


class _Interrupted(Exception):  # noqa: N818 - no error: the next link may do
    def __init__(self, reason: str, *, pause: float | None = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class Transfer:
    """
    Brings the file that a request names to a receiver.

    Attributes:
        received: Bytes of the object, as stored, that are with the receiver.

        downloaded: Bytes that came over the wire, those of voided beginnings
            included.

        total: Bytes of the object, if anybody said.

        links: Links used.
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
        self.received = 0
        self.downloaded = 0
        self.total: int | None = None
        self.links = 0
        self._session = session
        self._request = request
        self._receiver = receiver
        self._request_id = request_id
        self._progress = progress
        self._etag: str | None = None
        self._best = 0
        self._fruitless = 0
        self._reported = 0

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
            except _Interrupted as reason:
                await self._go_on(reason)
            else:
                self._report(force=True)
                return

    async def _try(self) -> None:
        async with self._session.file(self._request) as answer:
            # A link leaves the context at once: nothing here holds its slot.
            if isinstance(answer, Answer):
                await self._take_inline(answer)
                return

        await self._take_link(answer, _REDIRECTS)

    async def _take_inline(self, answer: Answer) -> None:
        await self._start_over(None)
        await self._take_part(answer)

    async def _take_link(self, link: str, redirects: int) -> None:
        self.links += 1
        headers = await self._resumption()
        fetching = self._session.transport.fetch(link, headers)

        try:
            async with fetching as answer:
                onward = await self._take_stored(answer, link)
        except TransportError as error:
            raise _Interrupted(str(error), pause=None) from None

        if onward is not None:
            if redirects == 0:
                raise _Interrupted("the store redirects in circles", pause=None)
            self.links -= 1
            await self._take_link(onward, redirects - 1)

    async def _resumption(self) -> dict[str, str]:
        if self.received and self._etag is None:
            # Nothing would prove that the rest belongs to what we have.
            await self._start_over(None)

        if not self.received or self._etag is None:
            return {}

        # If-Range would do in theory; in practice no store minds a wrong one.
        return {"Range": f"bytes={self.received}-", "If-Match": self._etag}

    async def _take_stored(self, answer: Answer, link: str) -> str | None:
        if answer.status == 200:  # noqa: PLR2004 - all of it, asked for or not
            await self._start_over(_strong(answer.headers.get("etag")))
            await self._take_part(answer)
            return None

        if answer.status == 206:  # noqa: PLR2004 - the rest
            await self._check_continues(answer)
            await self._take_part(answer)
            return None

        if answer.status in {301, 302, 303, 307, 308}:
            return link_target(link, answer.headers.get("location"))

        if answer.status in {412, 416}:
            await self._start_over(None)
            raise _Interrupted("the file changed in the store")

        raise await self._refused(answer)

    async def _check_continues(self, answer: Answer) -> None:
        part = part_of(answer.status, answer.headers)
        etag = answer.headers.get("etag", self._etag)

        if (
            part is None
            or not self.received
            or part.start != self.received
            or etag != self._etag
            or (self.total is not None and part.total not in {self.total, None})
        ):
            await self._start_over(None)
            raise _Interrupted("the store sent another part, or another file")

    async def _refused(self, answer: Answer) -> _Interrupted:
        code = _STORE_CODE.search(await answer.read())
        said = f" ({code[1].decode()})" if code else ""
        asked = retry_after(answer.headers, now=self._session.clock.utcnow())
        pause = None if answer.status in _SLOW_DOWN else 0.0

        if asked is not None:
            pause = min(asked, self._session.retrying.retry_after)

        return _Interrupted(f"the store answered {answer.status}{said}", pause=pause)

    async def _take_part(self, answer: Answer) -> None:
        _check_encoding(answer.headers.get("content-encoding", ""))
        part = part_of(answer.status, answer.headers) or Part(
            start=0, length=None, total=None
        )
        end = None if part.length is None else part.start + part.length
        self.total = part.total if part.total is not None else self.total
        try:
            await answer.pour(self._receiver.feed, self._note)
        except TransportError as error:
            raise _Interrupted(str(error), pause=0.0) from None

        if end is not None and self.received != end:
            raise _Interrupted("the body was shorter than announced")

        if self.total is not None and self.received != self.total:
            raise _Interrupted("the store sent less than the rest")

        await self._receiver.end(is_delimited=answer.is_delimited)

    def _note(self, count: int) -> None:
        self.received += count
        self.downloaded += count
        self._report()

    async def _start_over(self, etag: str | None) -> None:
        if self.received:
            self.received, self.total, self._reported = 0, None, 0
            await self._receiver.begin()

        self._etag = etag

    async def _go_on(self, reason: _Interrupted) -> None:
        if self.received > self._best:
            self._best, self._fruitless = self.received, 0

        self._fruitless += 1

        if self._fruitless > _FRUITLESS_LINKS:
            raise self._incomplete(reason)

        words = redact_links(str(reason))
        _logger.info("link given up", extra={"request_id": self._request_id})
        self._session.emit(
            LinkRenewed(
                request_id=self._request_id,
                links=self.links,
                received=self.received,
                reason=words,
            )
        )
        await self._session.clock.sleep(self._pause(reason))

    def _pause(self, reason: _Interrupted) -> float:
        if reason.pause is not None:
            return reason.pause

        retrying = self._session.retrying
        most = min(retrying.most, retrying.first * 2.0**self._fruitless)

        return most * (0.5 + self._session.chance() / 2)

    def _incomplete(self, reason: _Interrupted) -> IncompleteDownloadError:
        expected = "an unknown number" if self.total is None else f"{self.total}"
        error = IncompleteDownloadError(
            f"the file of export {self._request_id} did not arrive: "
            f"{self.received} of {expected} bytes came over {self.links} links, the "
            f"last one given up because {redact_links(str(reason))}; the file stays "
            f"available for seven days, continue with `resume_export()`",
            request_id=self._request_id,
        )
        error.received = self.received
        error.expected = self.total

        return error

    def _report(self, *, force: bool = False) -> None:
        if not force and self.received - self._reported < _REPORT_EVERY:
            return

        self._reported = self.received
        event = BytesReceived(
            request_id=self._request_id, received=self.received, total=self.total
        )
        self._session.emit(event)

        if self._progress is not None:
            self._progress(event)


def _check_encoding(encodings: str) -> None:
    asked_for = {word.strip().lower() for word in encodings.split(",")} <= _ENCODINGS

    if not asked_for:
        raise Malformed(
            f"it came encoded as {encodings!r}, which was not asked for; look for a "
            f"proxy that encodes anew"
        )


def _strong(etag: str | None) -> str | None:
    return etag if etag is not None and etag.startswith('"') else None
