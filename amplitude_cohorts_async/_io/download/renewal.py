"""
Another link for the same file, as long as links bring anything new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs

from ..._core.redact import redact_links
from ...errors import IncompleteDownloadError
from ...events import BytesReceived, LinkRenewed
from ..session import Session

_logger = logging.getLogger(__name__)

_FRUITLESS_LINKS = 5
_REPORT_EVERY = 1 << 20


class Interrupted(Exception):  # noqa: N818 - no error: the next link may do
    """
    One link brought no more.

    Args:
        pause: Seconds to wait before the next one; None to back off.
    """

    def __init__(self, reason: str, *, pause: float | None = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class Changed(Interrupted):
    """
    What is in the store is not, or not provably, what came before.
    """


@attrs.define
class Progress:
    """
    How far the transfer of one file is.

    Attributes:
        received: Bytes of the object, as stored, that are with the receiver.

        downloaded: Bytes that came over the wire, those of voided beginnings
            included.

        total: Bytes of the object, if anybody said.

        links: Links used.
    """

    session: Session
    request_id: str
    told: Callable[[BytesReceived], None] | None
    received: int = 0
    downloaded: int = 0
    total: int | None = None
    links: int = 0
    _reported: int = 0

    def note(self, count: int) -> None:
        """
        Take note of more bytes.
        """
        self.received += count
        self.downloaded += count

        if self.received - self._reported >= _REPORT_EVERY:
            self.report()

    def reset(self) -> None:
        """
        Take note that all received bytes are void.
        """
        self.received, self.total, self._reported = 0, None, 0

    def report(self) -> None:
        """
        Tell whoever wants to know.
        """
        self._reported = self.received
        event = BytesReceived(
            request_id=self.request_id, received=self.received, total=self.total
        )
        self.session.emit(event)

        if self.told is not None:
            self.told(event)


class Renewal:
    """
    Decides after each link that brought no more whether to ask for another.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._best = 0
        self._fruitless = 0

    async def after(self, reason: Interrupted) -> None:
        """
        Wait until another link may be asked for.

        Raises:
            IncompleteDownloadError: Several links in a row brought nothing new.
        """
        progress = self._progress

        if progress.received > self._best:
            self._best, self._fruitless = progress.received, 0

        self._fruitless += 1

        if self._fruitless > _FRUITLESS_LINKS:
            raise self._incomplete(reason)

        _logger.info("link given up", extra={"request_id": progress.request_id})
        progress.session.emit(
            LinkRenewed(
                request_id=progress.request_id,
                links=progress.links,
                received=progress.received,
                reason=redact_links(str(reason)),
            )
        )
        await progress.session.clock.sleep(self._pause(reason))

    def _pause(self, reason: Interrupted) -> float:
        if reason.pause is not None:
            return reason.pause

        session = self._progress.session
        retrying = session.retrying
        most = min(retrying.most, retrying.first * 2.0**self._fruitless)

        return most * (0.5 + session.chance() / 2)

    def _incomplete(self, reason: Interrupted) -> IncompleteDownloadError:
        progress = self._progress
        expected = "an unknown number" if progress.total is None else progress.total

        return IncompleteDownloadError(
            f"the file of export {progress.request_id} did not arrive: "
            f"{progress.received} of {expected} bytes came over {progress.links} "
            f"links, the last one given up because {redact_links(str(reason))}; the "
            f"file stays available for seven days, continue with `resume_export()`",
            request_id=progress.request_id,
            received=progress.received,
            expected=progress.total,
        )
