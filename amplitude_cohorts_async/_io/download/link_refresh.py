"""Another link for the same file, as long as links bring anything new."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs

from ..._core.redact import redact_links
from ..._core.retrying import backoff
from ...errors import IncompleteDownloadError
from ...events import BytesReceived, LinkRenewed
from ..context import Context
from ..http.transport import Transport

_logger = logging.getLogger(__name__)

_FRUITLESS_LINKS = 5
_REPORT_EVERY = 1 << 20


class LinkFailed(Exception):  # noqa: N818 - no error: the next link may do
    """
    One link brought no more.

    Args:
        pause: Seconds to wait before the next one; None to back off.
    """

    def __init__(self, reason: str, *, pause: float | None = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class ObjectChanged(LinkFailed):
    """What is in the store is not, or not provably, what came before."""


@attrs.define
class DownloadState:
    """
    What the parts of one download share, and how far it is.

    Attributes:
        received: Bytes of the object, as stored, that are with the receiver.

        downloaded: Bytes that came over the wire, those of voided beginnings
            included.

        total: Bytes of the object, if known.

        links: Links used.
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

    def add(self, count: int) -> None:
        """Count more bytes."""
        self.received += count
        self.downloaded += count

        if self.received - self._reported >= _REPORT_EVERY:
            self.report()

    def reset(self) -> None:
        """Start over: all received bytes are void."""
        self.received, self.total, self._reported = 0, None, 0

    def report(self) -> None:
        """Report to the hook and the callback how far it is."""
        self._reported = self.received
        event = BytesReceived(
            request_id=self.request_id, received=self.received, total=self.total
        )
        self.context.emit(event)

        if self.callback is not None:
            self.callback(event)


class LinkRefresh:
    """Decides after each link that brought no more whether to ask for another."""

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

        _logger.info("link given up", extra={"request_id": state.request_id})
        state.context.emit(
            LinkRenewed(
                request_id=state.request_id,
                links=state.links,
                received=state.received,
                reason=redact_links(str(reason)),
            )
        )
        await state.context.clock.sleep(self._pause(reason))

    def _pause(self, reason: LinkFailed) -> float:
        if reason.pause is not None:
            return reason.pause

        context = self._state.context

        return backoff(context.retrying, self._fruitless + 1, jitter=context.rng())

    def _incomplete(self, reason: LinkFailed) -> IncompleteDownloadError:
        state = self._state
        expected = "an unknown number" if state.total is None else state.total

        return IncompleteDownloadError(
            f"the file of export {state.request_id} did not arrive: "
            f"{state.received} of {expected} bytes came over {state.links} "
            f"links, the last one given up because {redact_links(str(reason))}; the "
            f"file stays available for seven days, continue with `resume_export()`",
            request_id=state.request_id,
            received=state.received,
            expected=state.total,
        )
