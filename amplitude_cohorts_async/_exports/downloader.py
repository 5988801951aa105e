"""Downloads the file of a finished job: to disk, or as text for a reader."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
)
from contextlib import asynccontextmanager
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import BinaryIO

import attrs

from .._core.export_errors import ExportErrors
from .._core.manifest import DeliveredFile, requested_at, to_manifest, to_metadata
from .._core.requests import Endpoints
from .._core.secret import Secret
from .._core.tokens import FILE_LIFE, ExportRef, age_of, to_token
from .._io.cancellation import background, closed_after, in_thread
from .._io.download.to_destination import UploadReceiver
from .._io.download.to_file import FileReceiver
from .._io.download.to_reader import TextReceiver
from .._io.download.transfer import Transfer
from .._io.http.session import Session
from .._io.progress import Progress
from .._io.sinks.arrow import AmplitudeId
from .._io.sinks.destination import Destination
from .._io.sinks.file_sink import FileSink
from .._io.sinks.part_file import UnnamedFile, write_small
from .._io.sinks.saved_file import LocalFile
from .._io.sinks.saved_object import SavedObject
from .._io.sinks.target import Format, Options, Target
from .._version import VERSION
from ..errors import InvalidInputError, NotFoundError, UnexpectedResponseError
from ..events import BytesReceived, RowsDiffer
from ..models import ExportStatus, Routes, SavedExport

_logger = logging.getLogger(__name__)


def checked_progress(progress: Progress | None) -> None:
    """Raise `InvalidInputError` if it would have to be awaited."""
    if iscoroutinefunction(progress):
        raise InvalidInputError(
            "progress= is an async function, and is called without await; pass a plain "
            "one, which may start a task"
        )


def guarded_progress(progress: Progress, errors: ExportErrors) -> Progress:
    """Return *progress* so that what it raises keeps the token of the export."""
    call: Callable[[BytesReceived], object] = progress

    def guarded(event: BytesReceived) -> None:
        """Call it; what it raises ends the download."""
        try:
            result = call(event)
        except Exception as error:
            errors.note_token(error)
            raise

        if isinstance(result, Awaitable):
            if isinstance(result, Coroutine):
                result.close()
            raise InvalidInputError(
                "progress= returned an awaitable, and is called without await; pass a "
                "plain function, which may start a task"
            )

    return guarded


class FileDownloader:
    """Downloads the file of one job, any number of times."""

    def __init__(
        self,
        session: Session,
        ref: ExportRef,
        *,
        endpoints: Endpoints,
        poll: Callable[[], Awaitable[ExportStatus]],
    ) -> None:
        self._session = session
        self._ref = ref
        self._endpoints = endpoints
        self._poll = poll
        self._errors = ExportErrors(ref)

    async def save(
        self,
        target: Target,
        *,
        may_publish: Callable[[], Awaitable[bool]],
        amplitude_id: AmplitudeId,
        progress: Progress | None,
    ) -> SavedExport:
        """
        Download the file to a target, and write its manifest if one is wanted.

        Args:
            may_publish: Whether the whole file may replace what is at the target.
        """
        with self._session.context.phase("download", ref=self._ref) as phase:
            if target.destination is not None:
                saved = await self._upload(
                    target,
                    target.destination,
                    may_publish=may_publish,
                    options=self._options(amplitude_id),
                    progress=progress,
                )
                phase.rows = saved.rows
            else:
                saved, phase.rows = await self._save(
                    target,
                    may_publish=may_publish,
                    options=self._options(amplitude_id),
                    progress=progress,
                )
            phase.size = saved.size

        return saved

    async def _save(
        self,
        target: Target,
        *,
        may_publish: Callable[[], Awaitable[bool]],
        options: Options,
        progress: Progress | None,
    ) -> tuple[SavedExport, int | None]:
        """Download the file to a path; return what it has counted of members, too."""
        receiver = FileReceiver(
            FileSink(
                target,
                options=options,
                file_mode=self._session.context.file_mode,
                request_id=self._ref.request_id,
            )
        )
        transfer = self._transfer(receiver, progress)

        with self._errors.about_the_file(target.path):
            async with receiver.unfinished():
                await transfer.run()

                if target.manifest is not None:
                    await receiver.describe()

                if not await may_publish():
                    raise self._errors.superseded(target.path)

                file = await receiver.publish()

            saved = self._saved(target, file, transfer)

            if target.manifest is not None:
                await in_thread(partial(self._write_manifest, target, saved, transfer))

        # The file's own count: nothing is read for this.
        self._compare(file.rows, target.expected_rows)
        return saved, file.rows if self._has_header else None

    async def _upload(
        self,
        target: Target,
        destination: Destination,
        *,
        may_publish: Callable[[], Awaitable[bool]],
        options: Options,
        progress: Progress | None,
    ) -> SavedExport:
        """Download the file to a destination, and write its manifest if wanted."""
        receiver = UploadReceiver(
            target,
            destination,
            options=attrs.evolve(options, counts_all=True),
            metadata=to_metadata(self._ref),
        )
        transfer = self._transfer(receiver, progress)

        with self._errors.about_the_file(target.name):
            async with receiver.unfinished():
                await transfer.run()

                if not await may_publish():
                    raise self._errors.superseded(target.name)

                saved = self._saved(target, await receiver.publish(), transfer)

                if target.manifest is not None:
                    manifest = self._manifest(target, saved, transfer)
                    await receiver.write_manifest(manifest)

        self._compare(saved.rows, target.expected_rows)
        return saved

    async def link(self) -> str:
        """Return a fresh link to the file."""
        request = self._endpoints.export_file(self._ref)

        try:
            async with self._session.file(request) as answer:
                if isinstance(answer, Secret):
                    # Plain text: from here on it is the caller's to hide.
                    return "".join(answer)
        except NotFoundError as error:
            # It raises what became of a file that is gone.
            await self._status_without_file(error.status)
            raise

        raise UnexpectedResponseError(
            f"the service sent the file of export {self._ref.request_id} itself, "
            f"without a link; save it with `download()`, or read it with `file()`"
        )

    @asynccontextmanager
    async def file(self, format: Format) -> AsyncGenerator[BinaryIO]:  # noqa: A002
        """Download the file to one without a name, and open that."""
        place = Path(tempfile.gettempdir())
        sink = FileSink(
            Target(path=place, place=place, resolved=place, format=format),
            options=self._options("text"),
            file_mode=None,
            part=UnnamedFile(),
        )
        receiver = FileReceiver(sink)

        with (
            self._session.context.phase("download", ref=self._ref),
            self._errors.about_the_file(f"a temporary file in {place}"),
        ):
            async with receiver.unfinished():
                await self._transfer(receiver, None).run()
                file = await receiver.reader()

        with file:
            yield file

    @asynccontextmanager
    async def text(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open the file as text that is read while it arrives."""
        receiver = TextReceiver(
            request_id=self._ref.request_id,
            has_header=self._has_header,
            max_size=self._session.context.max_size,
        )
        transfer = self._transfer(receiver, None)

        with self._session.context.phase("download", ref=self._ref, is_stream=True):
            async with (
                background(receiver.fill(transfer.run)),
                closed_after(self._read(receiver)) as text,
            ):
                yield text

    async def _read(self, receiver: TextReceiver) -> AsyncGenerator[bytes]:
        with self._errors.with_token(), self._errors.about_the_file():
            async for text in receiver:
                yield text

    def _options(self, amplitude_id: AmplitudeId) -> Options:
        return Options(
            has_header=self._has_header,
            max_size=self._session.context.max_size,
            amplitude_id=amplitude_id,
        )

    @property
    def _has_header(self) -> bool:
        # The third-party description does not say what the lines of a file are.
        return self._endpoints.routes is Routes.VENDOR

    async def _status_without_file(self, answered: int) -> ExportStatus:
        # Only the status tells a file that is early from one that is gone, which
        # raises, be it answered 404 or 410. To take the first for the second would
        # spend another export.
        now = self._session.context.clock.utcnow()
        age = age_of(self._ref, now=now)
        is_old = age is not None and age > FILE_LIFE.total_seconds()

        if is_old:
            raise self._errors.expired(answered, now=now)

        return await self._poll()

    def _transfer(
        self,
        receiver: FileReceiver | TextReceiver | UploadReceiver,
        progress: Progress | None,
    ) -> Transfer:
        return Transfer(
            self._session,
            self._endpoints.export_file(self._ref),
            receiver,
            request_id=self._ref.request_id,
            status_without_file=self._status_without_file,
            progress=progress,
        )

    def _write_manifest(
        self, target: Target, saved: SavedExport, transfer: Transfer
    ) -> None:
        write_small(
            target.manifest or target.place,
            self._manifest(target, saved, transfer),
            mode=self._session.context.file_mode,
            like=target.place,
        )

    def _manifest(
        self, target: Target, saved: SavedExport, transfer: Transfer
    ) -> bytes:
        file = DeliveredFile(
            name=target.path.name,
            format=target.format.suffix,
            size=saved.size,
            sha256=saved.sha256,
            rows=saved.rows,
            etag=transfer.etag,
            downloaded_at=self._session.context.clock.utcnow(),
        )
        return to_manifest(
            self._ref, file, library=f"amplitude-cohorts-async/{VERSION}"
        )

    def _compare(self, rows: int | None, size: int | None) -> None:
        if not self._has_header or rows is None or size is None or rows == size:
            return

        request_id, cohort_id = self._ref.request_id, self._ref.cohort_id
        _logger.warning(
            "the file of export %s has %d rows, and cohort %s has %d members",
            *(request_id, rows, cohort_id, size),
        )
        self._session.context.emit(
            RowsDiffer(request_id=request_id, cohort_id=cohort_id, rows=rows, size=size)
        )

    def _saved(
        self, target: Target, file: LocalFile | SavedObject, transfer: Transfer
    ) -> SavedExport:
        count = target.format.count_rows
        is_counted = count is None or self._has_header
        rows = file.rows if is_counted else None

        if isinstance(file, LocalFile):
            file = attrs.evolve(
                file,
                request_id=self._ref.request_id,
                rows=rows,
                count=count if is_counted else None,
            )
        else:
            file = attrs.evolve(file, rows=rows)

        return SavedExport(
            path=target.path,
            size=file.size,
            file=file,
            downloaded=transfer.state.downloaded,
            links=transfer.state.links,
            token=to_token(self._ref),
            requested_at=requested_at(self._ref),
            location=target.location,
        )
