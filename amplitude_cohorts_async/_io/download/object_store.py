"""The store's answers to a link, and whether to ask for another link."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from ..._core.links import Part, link_target, part_of
from ..._core.redact import redact_links
from ..._core.responses import retry_after
from ..._core.retrying import backoff
from ..._core.secret import Secret
from ...errors import IncompleteDownloadError, TransportError
from ...events import BytesReceived, LinkRenewed
from ..context import Context

if TYPE_CHECKING:
    from ..http.streamed_response import StreamedResponse
    from ..http.transport import Transport
    from ..sinks.disk_writer import Consumer

_logger = logging.getLogger(__name__)

_FRUITLESS_LINKS = 5
_REPORT_EVERY = 1 << 20
_MOVED = frozenset({301, 302, 303, 307, 308})
_REDIRECTS = 3
_SLOW_DOWN = frozenset({429, 500, 502, 503, 504})
_STORE_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


class LinkFailed(Exception):  # noqa: N818 - no error: the next link may work
    """
    One link brings no more bytes.

    Args:
        pause: Seconds to wait before the next one; None to back off.
    """

    def __init__(self, reason: str, *, pause: float | None = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class ObjectChanged(LinkFailed):
    """The object in the store is not, or not provably, the one of before."""


@attrs.define
class DownloadState:
    """
    The progress of one download, shared by its parts.

    Attributes:
        received: Bytes of the object, as stored, that the receiver has.
        downloaded: Bytes that came over the network, void ones included.
    """

    context: Context
    transport: Transport
    request_id: str
    callback: Callable[[BytesReceived], None] | None
    received: int = 0
    downloaded: int = 0
    total: int | None = None
    links: int = 0
    _reported: int = 0
    _began: float | None = None

    def add(self, count: int) -> None:
        """Count more bytes."""
        if self._began is None:
            self._began = self.context.clock.now()

        self.received += count
        self.downloaded += count

        if self.received - self._reported >= _REPORT_EVERY:
            self.report()

    def reset(self) -> None:
        """Start over: the received bytes are void."""
        self.received, self.total, self._reported = 0, None, 0

    def report(self) -> None:
        """Report the progress to the hook and the callback."""
        self._reported = self.received
        event = BytesReceived(
            request_id=self.request_id,
            received=self.received,
            total=self.total,
            seconds_left=self._seconds_left(),
        )
        self.context.emit(event)

        if self.callback is not None:
            self.callback(event)

    def _seconds_left(self) -> float | None:
        """Return how long the rest takes at the pace so far; None if unknown."""
        if self.total is None or self._began is None:
            return None

        # In the first bytes there is no pace yet.
        elapsed = self.context.clock.now() - self._began
        left = max(0, self.total - self.received)

        return (
            0.0 if not left else (elapsed and left * elapsed / self.downloaded) or None
        )


class LinkRefresh:
    """Decides after each failed link whether to ask for another."""

    def __init__(self, state: DownloadState) -> None:
        self._state = state
        self._best = 0
        self._fruitless = 0

    async def after(self, reason: LinkFailed) -> None:
        """
        Wait until another link may be asked for.

        Raises:
            IncompleteDownloadError: Several links in a row brought nothing new.
        """
        state = self._state

        if state.received > self._best:
            self._best, self._fruitless = state.received, 0

        self._fruitless += 1

        if self._fruitless > _FRUITLESS_LINKS:
            raise self._incomplete(reason)

        context, pause, why = state.context, reason.pause, redact_links(str(reason))

        if pause is None:
            pause = backoff(context.retrying, self._fruitless + 1, jitter=context.rng())

        _logger.info(
            "a link to the file of export %s is given up, another one follows in "
            "%.1f s: %s",
            *(state.request_id, pause, why),
            extra={"request_id": state.request_id},
        )
        context.emit(
            LinkRenewed(
                request_id=state.request_id,
                links=state.links,
                received=state.received,
                reason=why,
            )
        )
        await context.clock.sleep(pause)

    def _incomplete(self, reason: LinkFailed) -> IncompleteDownloadError:
        state = self._state
        expected = "an unknown number of" if state.total is None else state.total

        return IncompleteDownloadError(
            f"the file of export {state.request_id} did not arrive: "
            f"{state.received} of {expected} bytes came over {state.links} "
            f"links, the last one given up because {redact_links(str(reason))}; the "
            f"file stays available for seven days, continue with `resume_export()`",
            request_id=state.request_id,
            received=state.received,
            expected=state.total,
        )


@asynccontextmanager
async def open_object(
    state: DownloadState, link: Secret, headers: dict[str, str]
) -> AsyncGenerator[StreamedResponse]:
    """
    Follow a link to an answer with bytes of the object: 200 or 206.

    Raises:
        ObjectChanged: The object is not the one that the headers ask for.
        LinkFailed: The store refuses, or cannot be reached.
    """
    for _ in range(_REDIRECTS + 1):
        try:
            async with state.transport.fetch(link, headers) as answer:
                if answer.status not in _MOVED:
                    await _check(state, answer)
                    yield answer
                    return

                location = answer.headers.get("location")
                show = state.transport.redactor.url
                link = link_target(link, location, show=show)
        except TransportError as error:
            raise LinkFailed(str(error), pause=None) from None

    raise LinkFailed("the store redirects in circles", pause=None)


def range_headers(etag: str, start: int, end: int | None = None) -> dict[str, str]:
    """Return headers for the bytes up to *end* of the object with this tag only."""
    last = "" if end is None else end - 1

    # Not If-Range: in practice no store heeds a wrong one.
    return {"Range": f"bytes={start}-{last}", "If-Match": etag}


def checked_part(
    answer: StreamedResponse, *, etag: str, start: int, total: int | None
) -> Part:
    """Return the part in an answer; raise `ObjectChanged` unless it was asked for."""
    part = part_of(answer.status, answer.headers)

    if (
        answer.status != 206  # noqa: PLR2004 - 200 is all of it
        or part is None
        or part.start != start
        or not etag
        or answer.headers.get("etag") != etag
        or (total is not None and part.total not in {total, None})
    ):
        raise ObjectChanged("the store sent another part, or another file")

    return part


async def pour(
    answer: StreamedResponse, consumer: Consumer, count: Callable[[int], None]
) -> None:
    """Pass the body of an answer to a consumer; a cut raises `LinkFailed`."""
    try:
        await answer.pour(consumer, count)
    except TransportError as error:
        raise LinkFailed(str(error)) from None


def strong(etag: str | None) -> str:
    """Return a tag that proves two objects identical; "" for a weak one or none."""
    return etag if etag is not None and etag.startswith('"') else ""


async def _check(state: DownloadState, answer: StreamedResponse) -> None:
    if answer.status in {200, 206}:
        return

    if answer.status in {412, 416}:
        raise ObjectChanged("the file changed in the store")

    code = _STORE_CODE.search(await state.transport.glance(answer))
    detail = f" ({code[1].decode()})" if code else ""
    requested = retry_after(answer.headers, now=state.context.clock.utcnow())
    pause = None if answer.status in _SLOW_DOWN else 0.0

    if requested is not None:
        pause = min(requested, state.context.retrying.max_retry_after)

    raise LinkFailed(f"the store answered {answer.status}{detail}", pause=pause)
