"""Downloads the file of a finished job: to disk, or as text for a reader."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import attrs

from .._core.export_errors import ExportErrors
from .._core.requests import Endpoints
from .._core.tokens import FILE_LIFE, ExportRef, age_of, to_token
from .._io.cancellation import background
from .._io.download.to_file import FileReceiver
from .._io.download.to_reader import TextReceiver
from .._io.download.transfer import Transfer
from .._io.http.session import Session
from .._io.sinks.arrow import AmplitudeId
from .._io.sinks.file_sink import FileSink
from .._io.sinks.saved_file import LocalFile
from .._io.sinks.target import Options, Target
from ..events import BytesReceived
from ..models import ExportStatus, Routes, SavedExport

Progress = Callable[[BytesReceived], None]


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
        self, target: Target, *, amplitude_id: AmplitudeId, progress: Progress | None
    ) -> SavedExport:
        """Download the file to a target."""
        options = Options(
            has_header=self._has_header,
            max_size=self._session.context.max_size,
            amplitude_id=amplitude_id,
        )
        receiver = FileReceiver(
            FileSink(target, options=options, file_mode=self._session.context.file_mode)
        )
        transfer = self._transfer(receiver, progress)

        with self._errors.about_the_file(target.path):
            try:
                await transfer.run()
                file = await receiver.publish()
            finally:
                await receiver.discard()

        return self._saved(target, file, transfer)

    @asynccontextmanager
    async def text(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open the file as text that is read while it arrives."""
        receiver = TextReceiver(
            request_id=self._ref.request_id,
            has_header=self._has_header,
            max_size=self._session.context.max_size,
        )
        transfer = self._transfer(receiver, None)

        async with background(receiver.fill(transfer.run)):
            yield self._read(receiver)

    async def _read(self, receiver: TextReceiver) -> AsyncIterator[bytes]:
        with self._errors.with_token(), self._errors.about_the_file():
            async for text in receiver:
                yield text

    def _transfer(
        self, receiver: FileReceiver | TextReceiver, progress: Progress | None
    ) -> Transfer:
        return Transfer(
            self._session,
            self._endpoints.export_file(self._ref),
            receiver,
            request_id=self._ref.request_id,
            status_without_file=self._status_without_file,
            progress=progress,
        )

    async def _status_without_file(self, answered: int) -> ExportStatus:
        # Only the status tells a file that is early from one that is gone, which
        # raises: who took the first for the second would spend another export.
        now = self._session.context.clock.utcnow()
        age = age_of(self._ref, now=now)
        is_old = age is not None and age > FILE_LIFE.total_seconds()

        if is_old or answered == HTTPStatus.GONE:
            raise self._errors.expired(answered, now=now)

        return await self._poll()

    def _saved(
        self, target: Target, file: LocalFile, transfer: Transfer
    ) -> SavedExport:
        count = target.format.count_rows
        # The third-party description does not say what the lines of a file are.
        is_counted = count is None or self._endpoints.routes is Routes.VENDOR
        file = attrs.evolve(
            file,
            request_id=self._ref.request_id,
            rows=file.rows if is_counted else None,
            count=count if is_counted else None,
        )

        return SavedExport(
            path=target.path,
            size=file.size,
            file=file,
            downloaded=transfer.state.downloaded,
            links=transfer.state.links,
            token=to_token(self._ref),
        )

    @property
    def _has_header(self) -> bool:
        # Under the third-party description the file may be anything, even JSON.
        return self._endpoints.routes is Routes.VENDOR
