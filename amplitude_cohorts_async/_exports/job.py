"""An export job, as users have it: poll it, wait for it, read or save its file."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import BinaryIO

import anyio.to_thread
import attrs

from .._io.async_only import async_context
from .._io.download.member_stream import MemberStream
from .._io.progress import (
    Progress,
    ProgressBar,
    callback_or_bar,
    displayed,
    displayed_stream,
    progress_bar,
)
from .._io.sinks.arrow import AmplitudeId, RecordBatch, require_arrow
from .._io.sinks.destination import Destination
from .._io.sinks.target import checked_format, checked_target
from ..models import ExportStatus, SavedExport
from .app_jobs import target_name
from .claim import Delivery
from .downloader import checked_progress
from .spent_export import SpentExport


class ExportJob:
    """
    An export that was requested, which counts against the monthly quota.

    Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts

    Attributes:
        request_id: The service's id of the job.
        cohort_id: The cohort; None when the job was resumed from a bare id.
    """

    def __init__(self, export: SpentExport, delivery: Delivery | None = None) -> None:
        self.request_id: str = export.ref.request_id
        self.cohort_id: str | None = export.ref.cohort_id
        self._export = export
        # One that the call which made this job has begun, for its first file or stream.
        self._delivery = delivery

    def __repr__(self) -> str:
        return f"<ExportJob {self.request_id} of cohort {self.cohort_id}>"

    @property
    def token(self) -> str:
        """
        The job as JSON text without secrets; valid for seven days.

        Pass it to ``CohortsClient.resume_export()`` in any process.
        """
        return self._export.token

    @property
    def done(self) -> bool:
        """
        Whether this client has seen that the file is ready; sends nothing.

        A job that was just resumed is not: `poll()` asks.
        """
        return self._export.is_ready

    def __await__(self) -> Generator[object, None, ExportJob]:
        """Wait as `wait()` does, for half an hour at most, and return the job."""
        return self.wait().__await__()

    async def poll(self) -> ExportStatus:
        """
        Return the status of the job after one request.

        A job that was requested in the last five minutes and that the service does
        not know has the word "not known yet".

        Raises:
            ExportFailedError: The job failed.
            ExportExpiredError: The service does not know the job, or no longer.
        """
        return await self._export.poll()

    async def wait(
        self, *, timeout: float = 1800.0, progress: bool = False
    ) -> ExportJob:
        """
        Wait until the file is ready, and return the job.

        Answers of 429 and 5xx and lost connections do not end the wait, nor does a
        404 within five minutes of the request: the next poll follows as usual.

        Args:
            timeout: Finite seconds. The job goes on after them.
            progress: Whether to draw a progress bar; see `download()`.

        Raises:
            ExportTimeoutError: The job was still running; resume it later.
            ExportFailedError: The job failed.
            ExportExpiredError: The service does not know the job, or no longer.
        """
        async with displayed(await self._bar(progress)):
            await self._export.wait(timeout)

        return self

    async def link(self, *, timeout: float = 1800.0, progress: bool = False) -> str:
        """
        Wait for the job, and return a link to its file, which is good for one minute.

        For a service that sends a browser there. **The link is as good as a password**
        while it lives: keep it out of logs, and send it with ``Referrer-Policy:
        no-referrer`` and ``Cache-Control: no-store``. The bytes are gzip, and nothing
        of what `download()` checks is checked. The export does not count as delivered.

        Args:
            timeout: Seconds to wait for the job, as for `wait()`.
            progress: As for `wait()`.

        Raises:
            UnexpectedResponseError: The service sent the file itself, as it may do with a
                small one; download it.
        """
        async with displayed(await self._bar(progress)):
            return await self._export.link(timeout)

    async def download(
        self,
        to: str | os.PathLike[str] | Destination,
        *,
        format: str | None = None,  # noqa: A002 - a public name
        amplitude_id: AmplitudeId = "text",
        timeout: float = 1800.0,
        manifest: bool = False,
        expected_rows: int | None = None,
        progress: Progress | bool | None = None,
    ) -> SavedExport:
        """
        Wait for the job, and save its file.

        The target appears when the file is complete and on disk, not before.
        Expired links are refreshed and cut connections continued. What an earlier
        download of this job had on disk when it was cancelled or killed is taken up
        where the file holds the bytes as stored, and the store can prove that.

        Args:
            to: The target: ".csv" for decoded text, ".csv.gz" for the bytes as
                served (compressed here if they are served plain), ".parquet" for
                columns. A file of that name is replaced and keeps its mode; a
                symbolic link is followed. Or an object, which appears when it is
                whole: "s3://bucket/c1.csv", "gs://..." or "az://..." with the extra
                ``cloud``, or a `destinations.Destination`. An address that is signed
                is refused.
            format: Needed when the name does not end in it, as in "csv.gz".
            amplitude_id: Whether the column of Amplitude ids holds "text" or
                "int64"; for ".parquet" only.
            timeout: Seconds to wait for the job, as for `wait()`.
            manifest: Whether to write "NAME.manifest.json" beside the file: what it
                is, its size, digest and number of members.
            expected_rows: The cohort's size, for a warning (`RowsDiffer`) if the
                members were counted and are not as many. A small file is counted,
                and every one that has a manifest.
            progress: Called with the bytes received, about once a MiB. The count
                goes back when the download starts over. True draws a progress bar
                on stderr, with the extra ``progress`` or with rich.

        Raises:
            InvalidInputError: The target cannot be written; nothing was sent.
            IncompleteDownloadError: No link delivered the rest of the file.
            MalformedFileError: The file is damaged, or not of members.
            StorageError: The file could not be written to disk, or a newer export of
                this cohort was saved at the target meanwhile.
        """
        # All of it: for a caller that has just spent this export, leaving while the
        # target is looked at must not lose the token either.
        async with self._export.tracked():
            callback, bar = callback_or_bar(progress, self._name)
            checked_progress(callback)
            if bar is not None:
                await bar.load()
            target = await anyio.to_thread.run_sync(
                checked_target, to, format, manifest
            )
            target = attrs.evolve(target, expected_rows=expected_rows)
            begun, self._delivery = self._delivery, None
            delivery = await self._export.deliver(
                target_name(target), target.format.suffix, begun, is_named=True
            )

        async with displayed(bar):
            saved = await self._export.save(
                target,
                delivery,
                amplitude_id=amplitude_id,
                timeout=timeout,
                progress=callback,
            )

        delivery.answered()
        return saved

    @async_context("async with job.file() as file:")
    async def file(
        self,
        *,
        format: str = "csv",  # noqa: A002 - a public name
        timeout: float = 1800.0,
        progress: bool = False,
    ) -> AsyncGenerator[BinaryIO]:
        """
        Wait for the job, and open its file once all of it is here.

        The file is a temporary one without a name: nothing of it stays, however the
        process ends. Copy it or send it inside the block. The export counts as
        delivered when the block ends without an error.

        Args:
            format: "csv", "csv.gz" or "parquet".
            timeout: Seconds to wait for the job, as for `wait()`.
            progress: As for `wait()`.
        """
        chosen = checked_format(format)
        chosen.require()
        bar = await self._bar(progress)

        async with self._streamed() as delivery:
            async with AsyncExitStack() as stack:
                async with displayed(bar):
                    opening = self._export.open_file(chosen, timeout)
                    file = await stack.enter_async_context(opening)

                yield file

            await delivery.finished(None)

    @async_context("async with job.members() as members:")
    async def members(self, *, progress: bool = False) -> AsyncGenerator[MemberStream]:
        """
        Wait for the job, and open its file as a stream of members.

        Uses no disk, and memory that does not grow with the file. A small file
        that the service sends without a link holds one of the five slots until
        it is read.

        Args:
            progress: As for `wait()`; the bar also counts the members that were read.
        """
        bar = await self._bar(progress)

        async with self._streamed() as delivery:
            async with displayed_stream(bar, self._export.read_members()) as stream:
                if bar is not None:
                    bar.rows = lambda: stream.rows
                yield stream

            # Not when the text is at its end: that is read ahead of the members.
            if stream.is_exhausted:
                await delivery.finished(None)

    @async_context("async with job.record_batches() as batches:")
    async def record_batches(
        self, *, amplitude_id: AmplitudeId = "text", progress: bool = False
    ) -> AsyncGenerator[AsyncIterator[RecordBatch]]:
        """
        Wait for the job, and open its file as Arrow record batches.

        Batches hold some 15,000 members each and are made while the file
        arrives, without the disk. Empty ids are null.

        Args:
            amplitude_id: Whether Amplitude ids are "text", as in `Member`, or
                "int64".
            progress: As for `wait()`.

        Raises:
            MissingExtraError: The extra ``parquet`` is not installed.
        """
        require_arrow()
        bar = await self._bar(progress)

        async with self._streamed() as delivery:
            reading = self._export.read_batches(amplitude_id, delivery)
            async with displayed_stream(bar, reading) as batches:
                yield batches

    @property
    def _name(self) -> str:
        is_known = self.cohort_id is not None

        return f"cohort {self.cohort_id}" if is_known else f"export {self.request_id}"

    async def _bar(self, progress: bool) -> ProgressBar | None:
        # Whoever leaves meanwhile, by an error or cancelled, has the token.
        async with self._export.tracked():
            bar = progress_bar(progress, self._name)
            if bar is not None:
                await bar.load()

        return bar

    @asynccontextmanager
    async def _streamed(self) -> AsyncGenerator[Delivery]:
        delivery, self._delivery = self._delivery, None

        async with self._export.streamed(delivery) as delivery:
            yield delivery
