"""An export job: poll it, wait for it, read or save its file."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager

import anyio.to_thread

from .._core.export_errors import ExportErrors
from .._core.job_rows import ExportState
from .._core.requests import Endpoints
from .._core.tokens import ExportRef, to_token
from .._io.download.member_stream import MemberStream
from .._io.http.session import Session
from .._io.sinks.arrow import AmplitudeId, RecordBatch, record_batches, require_arrow
from .._io.sinks.saved_file import to_record
from .._io.sinks.target import Target, checked_target
from ..errors import ExportExpiredError, ExportFailedError, InvalidInputError
from ..models import ExportStatus, SavedExport
from .app_jobs import AppJobs, target_name
from .claim import Delivery
from .downloader import FileDownloader, Progress
from .poller import JobPoller

_logger = logging.getLogger(__name__)


def checked_timeout(timeout: float) -> float:
    """Return *timeout*, or raise `InvalidInputError` if it cannot be waited for."""
    if not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise InvalidInputError(
            f"timeout must be a finite number of seconds, zero or more, got {timeout!r}"
        )

    return timeout


class ExportJob:
    """
    An export that was requested, which counts against the monthly quota.

    Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts

    Attributes:
        request_id: The service's id of the job.
        cohort_id: The cohort; None when the job was resumed from a bare id.
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
        self.request_id: str = ref.request_id
        self.cohort_id: str | None = ref.cohort_id
        self._ref = ref
        self._jobs = jobs
        self._poller = poller
        self._delivery: Delivery | None = None
        self._downloader = FileDownloader(session, ref, endpoints=endpoints)
        self._errors = ExportErrors(ref)

    def __repr__(self) -> str:
        return f"<ExportJob {self.request_id} of cohort {self.cohort_id}>"

    @property
    def token(self) -> str:
        """
        The job as JSON text without secrets; valid for seven days.

        Pass it to ``CohortsClient.resume_export()`` in any process.
        """
        return to_token(self._ref)

    async def poll(self) -> ExportStatus:
        """
        Return the status of the job after one request.

        Raises:
            ExportFailedError: The job failed.
            ExportExpiredError: The service does not know the job, or no longer.
        """
        async with self._tracked():
            return await self._poller.poll()

    async def wait(self, *, timeout: float = 1800.0) -> ExportJob:
        """
        Wait until the file is ready, and return the job.

        Answers of 429 and 5xx and lost connections do not end the wait: the
        next poll follows as usual.

        Args:
            timeout: Finite seconds. The job goes on after them.

        Raises:
            ExportTimeoutError: The job was still running; resume it later.
            ExportFailedError: The job failed.
            ExportExpiredError: The service does not know the job, or no longer.
        """
        checked_timeout(timeout)

        async with self._tracked():
            await self._poller.wait(timeout)

        return self

    async def download(
        self,
        to: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - a public name
        amplitude_id: AmplitudeId = "text",
        timeout: float = 1800.0,
        progress: Progress | None = None,
    ) -> SavedExport:
        """
        Wait for the job, and save its file.

        The target appears when the file is complete and on disk, not before.
        Expired links are refreshed and cut connections continued.

        Args:
            to: The target: ".csv" for decoded text, ".csv.gz" for the bytes as
                served (compressed here if they are served plain), ".parquet" for
                columns. A file of that name is replaced and keeps its mode; a
                symbolic link is followed.
            format: Needed when the name does not end in it, as in "csv.gz".
            amplitude_id: Whether the column of Amplitude ids holds "text" or
                "int64"; for ".parquet" only.
            timeout: Seconds to wait for the job, as for `wait()`.
            progress: Called with the bytes received, about once a MiB. The count
                goes back when the download starts over.

        Raises:
            InvalidInputError: The target cannot be written; nothing was sent.
            IncompleteDownloadError: No link delivered the rest of the file.
            MalformedFileError: The file is damaged, or not of members.
            StorageError: The file could not be written to disk.
        """
        # All of it: for a caller that has just spent this export, leaving while the
        # target is looked at must not lose the token either.
        async with self._tracked():
            target = await anyio.to_thread.run_sync(checked_target, to, format)
            delivery = await self._jobs.deliver(
                self._ref, target_name(target), target.format.suffix
            )

        saved = await self.save(
            target,
            delivery,
            amplitude_id=amplitude_id,
            timeout=timeout,
            progress=progress,
        )
        delivery.answered()
        return saved

    async def save(
        self,
        target: Target,
        delivery: Delivery,
        *,
        amplitude_id: AmplitudeId = "text",
        timeout: float = 1800.0,
        progress: Progress | None = None,
    ) -> SavedExport:
        """
        Wait for the job, and save its file at a checked target.

        The caller records last that it answered with it.
        """
        async with self._tracked(), delivery.held():
            await self.wait(timeout=timeout)
            saved = await self._downloader.save(
                target, amplitude_id=amplitude_id, progress=progress
            )
            await delivery.finished(to_record(saved))

        return saved

    def delivering(self, delivery: Delivery) -> ExportJob:
        """Return this job, whose next stream is a delivery that was begun before."""
        self._delivery = delivery

        return self

    @asynccontextmanager
    async def members(self) -> AsyncGenerator[MemberStream]:
        """
        Wait for the job, and open its file as a stream of members.

        Uses no disk, and memory that does not grow with the file. A small file
        that the service sends without a link holds one of the five slots until
        it is read.
        """
        async with self._stream_delivery() as delivery:
            async with self.read_members() as stream:
                yield stream

            # Not when the text is at its end: that is read ahead of the members.
            if stream.is_exhausted:
                await delivery.finished(None)

    @asynccontextmanager
    async def read_members(self) -> AsyncGenerator[MemberStream]:
        """Open the file as `members()` does, for a caller that records the delivery."""
        await self.wait()

        with self._token_on_cancel():
            async with self._downloader.text() as text:
                yield MemberStream(self._checked(text), errors=self._errors)

    @asynccontextmanager
    async def record_batches(
        self, *, amplitude_id: AmplitudeId = "text"
    ) -> AsyncGenerator[AsyncIterator[RecordBatch]]:
        """
        Wait for the job, and open its file as Arrow record batches.

        Batches hold some 15,000 members each and are made while the file
        arrives, without the disk. Empty ids are null.

        Args:
            amplitude_id: Whether Amplitude ids are "text", as in `Member`, or
                "int64".

        Raises:
            MissingExtraError: The extra ``parquet`` is not installed.
        """
        require_arrow()

        async with self._stream_delivery() as delivery:
            await self.wait()

            with self._token_on_cancel():
                async with (
                    self._downloader.text() as text,
                    aclosing(
                        self._batches(self._checked(text), amplitude_id, delivery)
                    ) as batches,
                ):
                    yield batches

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

    @asynccontextmanager
    async def _stream_delivery(self) -> AsyncGenerator[Delivery]:
        """Deliver to a stream; whether it was read to its end, the caller records."""
        delivery, self._delivery = self._delivery, None

        if delivery is None:
            delivery = await self._jobs.deliver(self._ref, None, None)

        async with self._tracked(), delivery.held():
            yield delivery

        delivery.answered()

    async def _checked(self, text: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async with self._tracked():
            async for block in text:
                yield block

    @asynccontextmanager
    async def _tracked(self) -> AsyncGenerator[None]:
        """Add the token to errors, and record what became of a job without a file."""
        try:
            with self._errors.with_token(), self._token_on_cancel():
                yield
        except ExportFailedError:
            await self._jobs.mark(self._ref, ExportState.FAILED)
            raise
        except ExportExpiredError:
            await self._jobs.mark(self._ref, ExportState.GONE)
            raise

    @contextmanager
    def _token_on_cancel(self) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            keep_token(error, self.token)
            raise


def keep_token(error: asyncio.CancelledError, token: str) -> None:
    """Add the token of a spent export to the cancellation that interrupts it."""
    note = f"an export was requested; resume_export() goes on with it: {token}"

    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
        _logger.info("cancelled; %s", note)
