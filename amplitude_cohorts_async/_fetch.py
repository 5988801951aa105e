"""
A finished job's file: onto the disk, or as text for whoever reads it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs

from ._core import requests
from ._core.complaints import Complaints
from ._core.tokens import Ticket, to_token
from ._io.disk.files import Format, Target
from ._io.disk.saved_file import count_compressed_members, count_members
from ._io.disk.saving import Saving
from ._io.download.delivery import Delivery
from ._io.download.pipe import Pipe
from ._io.download.transfer import Transfer
from ._io.session import Session
from ._io.threads import background
from .contrib.arrow import AmplitudeId
from .contrib.parquet import ParquetWriter
from .errors import NotFoundError
from .events import BytesReceived
from .models import Routes, SavedExport

Progress = Callable[[BytesReceived], None]

_COUNT = {Format.CSV: count_members, Format.GZIP: count_compressed_members}


class Fetch:
    """
    Fetches the file of one job, as often as asked.
    """

    def __init__(self, session: Session, ticket: Ticket, *, routes: Routes) -> None:
        self._session = session
        self._ticket = ticket
        self._routes = routes
        self._complaints = Complaints(ticket)

    async def save(
        self, target: Target, *, amplitude_id: AmplitudeId, progress: Progress | None
    ) -> SavedExport:
        """
        Bring the file to a target.
        """
        columns = partial(ParquetWriter, amplitude_id=amplitude_id)
        saving = partial(
            Saving,
            target,
            never=self._never,
            file_mode=self._session.file_mode,
            columns=columns,
        )
        delivery = Delivery(saving)
        transfer = self._transfer(delivery, progress)

        with self._complaints.about_the_file(target.path):
            try:
                await self._run(transfer)
            finally:
                await delivery.discard()

        return self._saved(target, delivery.stage, transfer)

    @asynccontextmanager
    async def text(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """
        Open the file as text, while it arrives.
        """
        pipe = Pipe(request_id=self._ticket.request_id, never=self._never)
        transfer = self._transfer(pipe, None)

        async with background(pipe.fill(partial(self._run, transfer))):
            yield self._read(pipe)

    async def _read(self, pipe: Pipe) -> AsyncIterator[bytes]:
        with self._complaints.with_token(), self._complaints.about_the_file():
            async for text in pipe:
                yield text

    async def _run(self, transfer: Transfer) -> None:
        try:
            await transfer.run()
        except NotFoundError as error:
            now = self._session.clock.utcnow()
            raise self._complaints.expired(error.status, now=now) from error

    def _transfer(
        self, receiver: Delivery[Saving] | Pipe, progress: Progress | None
    ) -> Transfer:
        ticket = self._ticket

        return Transfer(
            self._session,
            requests.export_file(ticket.request_id, ticket.cohort_id, self._routes),
            receiver,
            request_id=ticket.request_id,
            progress=progress,
        )

    def _saved(self, target: Target, saved: Saving, transfer: Transfer) -> SavedExport:
        # The third-party description leaves open what is in a file of text.
        is_known = target.format is Format.PARQUET or self._routes is Routes.VENDOR
        file = attrs.evolve(
            saved.saved,
            request_id=self._ticket.request_id,
            rows=saved.rows if is_known else None,
            count=_COUNT.get(target.format) if is_known else None,
        )

        return SavedExport(
            path=target.path,
            size=file.size,
            file=file,
            downloaded=transfer.progress.downloaded,
            links=transfer.progress.links,
            token=to_token(self._ticket),
        )

    @property
    def _never(self) -> bytes:
        # The third-party description has a JSON object in the file's place.
        return b"<{[" if self._routes is Routes.VENDOR else b"<"
