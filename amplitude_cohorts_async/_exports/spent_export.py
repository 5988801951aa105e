"""An export that was spent: polls it, and brings its file to where it is wanted."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import (
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from typing import BinaryIO

from .._core.export_errors import ExportErrors
from .._core.job_rows import ExportState
from .._core.requests import Endpoints
from .._core.tokens import ExportRef, to_token
from .._io.cancellation import closed_after
from .._io.download.member_stream import MemberStream
from .._io.http.session import Session
from .._io.progress import Progress
from .._io.sinks.arrow import AmplitudeId, RecordBatch, record_batches
from .._io.sinks.saved_file import to_record
from .._io.sinks.target import Format, Target
from ..errors import ExportExpiredError, ExportFailedError, InvalidInputError
from ..events import BytesReceived
from ..models import ExportStatus, SavedExport
from .app_jobs import AppJobs
from .claim import Delivery
from .downloader import FileDownloader, guarded_progress
from .poller import JobPoller

_logger = logging.getLogger(__name__)


def checked_timeout(timeout: float) -> float:
    """Return *timeout*, or raise `InvalidInputError` if it cannot be waited for."""
    if not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise InvalidInputError(
            f"timeout must be a finite number of seconds, zero or more, got {timeout!r}"
        )

    return timeout


class SpentExport:
    """
    An export that was spent.

    The call that saves or streams its file records last that it returned.
    """

    def __init__(
        self,
        session: Session,
        ref: ExportRef,
        *,
        endpoints: Endpoints,
        poller: JobPoller,
        jobs: AppJobs,
    ) -> None:
        self.ref = ref
        self._context = session.context
        self._jobs = jobs
        self._poller = poller
        self._downloader = FileDownloader(
            session, ref, endpoints=endpoints, poll=poller.poll
        )
        self._errors = ExportErrors(ref)

    @property
    def token(self) -> str:
        """See `ExportJob`."""
        return to_token(self.ref)

    async def poll(self) -> ExportStatus:
        """Return the status of the job after one request."""
        async with self.tracked():
            return await self._poller.poll()

    async def wait(self, timeout: float = 1800.0) -> None:
        """Wait until the file is ready."""
        checked_timeout(timeout)

        with self._context.phase("wait", ref=self.ref):
            async with self.tracked():
                await self._poller.wait(timeout)

    @property
    def is_ready(self) -> bool:
        """Whether a poll has seen that the file is ready."""
        return self._poller.is_ready

    async def link(self, timeout: float) -> str:
        """Wait for the job, and return a link to its file."""
        await self.wait(timeout)

        async with self.tracked():
            return await self._downloader.link()

    async def deliver(
        self,
        target: str | None,
        format: str | None = None,  # noqa: A002
        begun: Delivery | None = None,
        *,
        is_named: bool = False,
    ) -> Delivery:
        """Begin a delivery, to the name of a target or a stream; see `AppJobs`."""
        return await self._jobs.deliver(
            self.ref, target, format, begun, is_named=is_named
        )

    async def save(
        self,
        target: Target,
        delivery: Delivery,
        *,
        amplitude_id: AmplitudeId = "text",
        timeout: float = 1800.0,
        progress: Progress | None = None,
        is_ready: bool = False,
    ) -> SavedExport:
        """Wait for the job, unless it is ready; save its file at a checked target."""
        async with self.tracked(), delivery.held():
            if not is_ready:
                await self.wait(timeout)
            saved = await self._downloader.save(
                target,
                may_publish=delivery.begin_publishing,
                amplitude_id=amplitude_id,
                progress=partial(
                    _report,
                    delivery,
                    progress and guarded_progress(progress, self._errors),
                ),
            )
            await delivery.finished(to_record(saved))

        return saved

    @asynccontextmanager
    async def open_file(
        self,
        format: Format,  # noqa: A002
        timeout: float,
    ) -> AsyncGenerator[BinaryIO]:
        """Wait for the job, and open its file once all of it is here."""
        async with AsyncExitStack() as stack:
            # What the caller does with it is none of this export's errors.
            async with self.tracked():
                await self.wait(timeout)
                file = await stack.enter_async_context(self._downloader.file(format))

            with self._token_on_cancel():
                yield file

    @asynccontextmanager
    async def read_members(self) -> AsyncGenerator[MemberStream]:
        """Wait for the job, and open its file as a stream of members."""
        await self.wait()

        with self._token_on_cancel():
            async with (
                self._downloader.text() as text,
                closed_after(self._checked(text)) as checked,
            ):
                stream = MemberStream(checked, errors=self._errors)
                try:
                    yield stream
                finally:
                    stream.close()

    @asynccontextmanager
    async def read_batches(
        self, amplitude_id: AmplitudeId, delivery: Delivery
    ) -> AsyncGenerator[AsyncIterator[RecordBatch]]:
        """Wait for the job, and open its file as Arrow record batches."""
        await self.wait()

        with self._token_on_cancel():
            async with (
                self._downloader.text() as text,
                closed_after(self._checked(text)) as checked,
                aclosing(self._batches(checked, amplitude_id, delivery)) as batches,
            ):
                yield batches

    @asynccontextmanager
    async def streamed(self, delivery: Delivery | None) -> AsyncGenerator[Delivery]:
        """
        Deliver to a stream; the caller records whether it was read to its end.

        Args:
            delivery: One that was begun before; None begins one.
        """
        if delivery is None:
            async with self.tracked():
                delivery = await self.deliver(None)

        # Not in tracked(): the caller's own errors get no token of this export.
        async with delivery.held():
            yield delivery

        delivery.answered()

    async def _batches(
        self,
        text: AsyncIterator[bytes],
        amplitude_id: AmplitudeId,
        delivery: Delivery,
    ) -> AsyncGenerator[RecordBatch]:
        with self._errors.with_token(), self._errors.about_the_file():
            async for batch in record_batches(text, amplitude_id=amplitude_id):
                yield batch

            await delivery.finished(None)

    async def _checked(self, text: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        async with self.tracked():
            async for block in text:
                yield block

    @asynccontextmanager
    async def tracked(self) -> AsyncGenerator[None]:
        """Add the token to errors, and record what became of a job without a file."""
        try:
            with self._errors.with_token(), self._token_on_cancel():
                yield
        except ExportFailedError:
            await self._jobs.mark(self.ref, ExportState.FAILED)
            raise
        except ExportExpiredError:
            await self._jobs.mark(self.ref, ExportState.GONE)
            raise

    @contextmanager
    def _token_on_cancel(self) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            keep_token(error, self.token)
            raise


def _report(
    delivery: Delivery, progress: Progress | None, event: BytesReceived
) -> None:
    delivery.received(event.received)

    if progress is not None:
        progress(event)


def keep_token(error: asyncio.CancelledError, token: str) -> None:
    """Add the token of a spent export to the cancellation that interrupts it."""
    note = f"an export was requested; resume_export() goes on with it: {token}"

    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
        _logger.info("cancelled; %s", note)
