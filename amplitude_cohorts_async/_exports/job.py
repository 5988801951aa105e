"""One export, from its request to its file; it outlives the process."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager

import anyio.to_thread

from .._core.export_errors import ExportErrors
from .._core.requests import Endpoints
from .._core.tokens import ExportRef, to_token
from .._io.download.member_stream import MemberStream
from .._io.http.session import Session
from .._io.sinks.arrow import AmplitudeId, RecordBatch, record_batches, require_arrow
from .._io.sinks.target import checked_target
from ..errors import ExportExpiredError, ExportFailedError, InvalidInputError
from ..models import ExportStatus, SavedExport
from ..policies import Polling
from .downloader import FileDownloader, Progress
from .memory import ExportMemory
from .poller import JobPoller

_logger = logging.getLogger(__name__)


def checked_timeout(timeout: float) -> float:
    """
    Return *timeout* if it is a time one can wait.

    Raises:
        InvalidInputError: It is negative, infinite or not a number.
    """
    if not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise InvalidInputError(
            f"timeout must be a finite number of seconds, zero or more, got {timeout!r}"
        )

    return timeout


class ExportJob:
    """
    An export that was requested, and is one of the month's.

    Attributes:
        request_id: What the service calls it.

        cohort_id: The cohort; None when the job was resumed from a bare id.
    """

    def __init__(
        self,
        session: Session,
        ref: ExportRef,
        *,
        endpoints: Endpoints,
        polling: Polling,
        memory: ExportMemory,
    ) -> None:
        self.request_id: str = ref.request_id
        self.cohort_id: str | None = ref.cohort_id
        self._ref = ref
        self._memory = memory
        self._poller = JobPoller(session, ref, endpoints=endpoints, polling=polling)
        self._downloader = FileDownloader(session, ref, endpoints=endpoints)
        self._errors = ExportErrors(ref)

    def __repr__(self) -> str:
        return f"<ExportJob {self.request_id} of cohort {self.cohort_id}>"

    @property
    def token(self) -> str:
        """
        The job as text: plain JSON without secrets, good for seven days.

        Hand it to ``CohortsClient.resume_export()`` in any process.
        """
        return to_token(self._ref)

    async def poll(self) -> ExportStatus:
        """
        Ask once how the job is.

        Raises:
            ExportFailedError: The service gave it up.

            ExportExpiredError: The service does not know it, or has dropped it.
        """
        async with self._tracked():
            return await self._poller.poll()

    async def wait(self, *, timeout: float = 1800.0) -> ExportJob:
        """
        Return when the file is ready.

        Answers of 429 and 5xx and lost connections do not end the wait: the
        next question follows as usual.

        Args:
            timeout: Seconds, finite. The job goes on when they are over.

        Raises:
            ExportTimeoutError: The job was still running; resume it later.

            ExportFailedError: The service gave it up.

            ExportExpiredError: The service does not know it, or has dropped it.
        """
        checked_timeout(timeout)

        async with self._tracked():
            await self._poller.wait(timeout)

        return self

    async def download(
        self,
        to: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - the word users know
        amplitude_id: AmplitudeId = "text",
        timeout: float = 1800.0,
        progress: Progress | None = None,
    ) -> SavedExport:
        """
        Save the file; waits for the job first if need be.

        The file gets its name when it is whole and on disk, and not before.
        An expired link or a cut connection is made good on the way.

        Args:
            to: The target. Ends in ".csv" for decoded text, ".csv.gz" for the
                bytes as served (compressed here, should they be served plain)
                or ".parquet" for columns. A file of that name is replaced and passes
                on its mode; a link is written through.

            format: Needed when the name does not end in it, as in "csv.gz".

            amplitude_id: Whether a column of Amplitude's ids holds "text" or
                "int64"; for ".parquet" only.

            timeout: Seconds to wait for the job, as for `wait()`.

            progress: Told of the bytes received, about once for each MiB. May
                go back when the download starts over.

        Raises:
            InvalidInputError: The target cannot be written; nothing was sent.

            IncompleteDownloadError: No link brought the rest.

            MalformedFileError: What came is not what it claims to be.

            StorageError: The local disk refused.
        """
        with self._token_on_cancel():
            target = await anyio.to_thread.run_sync(checked_target, to, format)

        await self.wait(timeout=timeout)

        async with self._tracked():
            saved = await self._downloader.save(
                target, amplitude_id=amplitude_id, progress=progress
            )
            await self._forget()

        return saved

    @asynccontextmanager
    async def members(self) -> AsyncGenerator[MemberStream]:
        """
        Open the file as a stream of members; waits for the job first.

        Nothing touches the disk, and memory stays flat. A small file that the
        service sends itself holds one of the five slots until it is read.
        """
        await self.wait()

        with self._token_on_cancel():
            async with self._downloader.text() as text:
                yield MemberStream(
                    self._delivered(text),
                    request_id=self.request_id,
                    cohort_id=self.cohort_id,
                    token=self.token,
                )

    @asynccontextmanager
    async def record_batches(
        self, *, amplitude_id: AmplitudeId = "text"
    ) -> AsyncGenerator[AsyncIterator[RecordBatch]]:
        """
        Open the file as Arrow record batches; waits for the job first.

        Needs the extra ``parquet``. Made while the file arrives, some 15,000
        members each; nothing touches the disk. Empty ids are null.

        Args:
            amplitude_id: Whether Amplitude's ids are "text", as in `Member`,
                or "int64".

        Raises:
            MissingExtraError: The extra is not installed.
        """
        require_arrow()
        await self.wait()

        with self._token_on_cancel():
            async with (
                self._downloader.text() as text,
                aclosing(self._batches(self._delivered(text), amplitude_id)) as batches,
            ):
                yield batches

    async def _batches(
        self, text: AsyncIterator[bytes], amplitude_id: AmplitudeId
    ) -> AsyncGenerator[RecordBatch]:
        with self._errors.with_token(), self._errors.about_the_file():
            async for batch in record_batches(text, amplitude_id=amplitude_id):
                yield batch

    async def _delivered(self, text: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async with self._tracked():
            async for block in text:
                yield block

            await self._forget()

    @asynccontextmanager
    async def _tracked(self) -> AsyncGenerator[None]:
        """Add the token to what passes; forget a job that will never have a file."""
        try:
            with self._errors.with_token(), self._token_on_cancel():
                yield
        except (ExportFailedError, ExportExpiredError):
            await self._forget()
            raise

    @contextmanager
    def _token_on_cancel(self) -> Generator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            keep_token(error, self.token)
            raise

    async def _forget(self) -> None:
        # Last of all: an export that is not delivered is left to the next call.
        if self.cohort_id is not None:
            await self._memory.forget(self._ref)


def keep_token(error: asyncio.CancelledError, token: str) -> None:
    """Add the token of a spent export to the cancellation that leaves it behind."""
    note = f"an export was requested; resume_export() goes on with it: {token}"

    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
        _logger.info("cancelled; %s", note)
