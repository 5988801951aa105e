"""
One export, from its request to its file; it outlives the process.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial

import anyio
import anyio.to_thread
import attrs

from ._core import requests, responses
from ._core.csvtext import CsvError
from ._core.malformed import Malformed
from ._core.polling import first_delay, next_delay
from ._core.retrying import NO_RETRIES
from ._core.tokens import FILE_LIFE, Ticket, to_token
from ._core.wire import Request, Response
from ._io.delivery import Delivery
from ._io.files import Format, Target, checked_target
from ._io.pipe import Pipe
from ._io.rows import MemberStream
from ._io.saving import Saving
from ._io.session import Session
from ._io.threads import background
from ._io.transfer import Transfer
from .contrib.arrow import AmplitudeId, RecordBatch, record_batches, require_arrow
from .errors import (
    CohortsError,
    ExportExpiredError,
    ExportFailedError,
    ExportTimeoutError,
    InvalidInputError,
    MalformedFileError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    StorageError,
    TransportError,
)
from .events import BytesReceived, StatusPolled
from .models import ExportStatus, Routes, SavedExport
from .policies import Polling

_logger = logging.getLogger(__name__)

_LAST_POLL = 10.0
"""
Seconds a question that falls on the deadline may still take.
"""


def checked_timeout(timeout: float) -> float:
    """
    Return *timeout* when somebody can wait that long.

    Raises:
        InvalidInputError: It is negative, endless or no number.
    """
    if not 0 <= timeout < math.inf:
        raise InvalidInputError(
            f"timeout is a finite number of seconds, got {timeout!r}"
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
        self, session: Session, ticket: Ticket, *, routes: Routes, polling: Polling
    ) -> None:
        self.request_id = ticket.request_id
        self.cohort_id = ticket.cohort_id
        self._session = session
        self._ticket = ticket
        self._routes = routes
        self._polling = polling
        self._is_done = False

    def __repr__(self) -> str:
        return f"<ExportJob {self.request_id} of cohort {self.cohort_id}>"

    @property
    def token(self) -> str:
        """
        The job as text: plain JSON without secrets, good for seven days.

        Hand it to ``CohortsClient.resume_export()`` in any process.
        """
        return to_token(self._ticket)

    async def poll(self) -> ExportStatus:
        """
        Ask once how the job is.

        Raises:
            ExportFailedError: The service gave it up.

            ExportExpiredError: The service does not know it, or no longer.
        """
        with self._carrying_token():
            return await self._ask(partial(self._session.send, self._status_request))

    async def wait(self, *, timeout: float = 1800.0) -> ExportJob:
        """
        Return when the file is ready.

        Answers of 429 and 5xx, and lost connections, are normal weather here:
        the next question follows as if nothing had been.

        Args:
            timeout: Seconds, finite. The job goes on when they are over.

        Raises:
            ExportTimeoutError: The job was still running; resume it later.

            ExportFailedError: The service gave it up.

            ExportExpiredError: The service does not know it, or no longer.
        """
        checked_timeout(timeout)

        with self._carrying_token():
            if not self._is_done:
                await self._watch(timeout)

        return self

    async def download(
        self,
        to: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002 - the word users know
        progress: Callable[[BytesReceived], None] | None = None,
    ) -> SavedExport:
        """
        Save the file; waits for the job first, if nobody did.

        The file gets its name when it is whole and on disk, and not before.
        An expired link or a cut connection is made good on the way.

        Args:
            to: The target. Ends in ".csv" for decoded text, ".csv.gz" for the
                bytes as served (compressed here, should they be served plain)
                or ".parquet" for columns. A file of that name is replaced.

            format: Says it when the name does not: "csv", "csv.gz", "parquet".

            progress: Told of the bytes received, about once for each MiB. May
                go back when the download starts over.

        Raises:
            InvalidInputError: There can be no such file; nothing was sent.

            IncompleteDownloadError: No link brought the rest.

            MalformedFileError: What came is not what it claims to be.

            StorageError: The local disk refused.
        """
        target = await anyio.to_thread.run_sync(checked_target, to, format)

        return await self.save(target, progress=progress)

    async def save(
        self,
        target: Target,
        *,
        progress: Callable[[BytesReceived], None] | None = None,
    ) -> SavedExport:
        """
        Save the file to a target that was checked before.
        """
        await self.wait()

        with self._carrying_token(), self._about_the_file(target):
            return await self._save(target, progress)

    @asynccontextmanager
    async def members(self) -> AsyncIterator[MemberStream]:
        """
        Open the file as a stream of members; waits for the job first.

        Nothing touches the disk, and memory stays flat. A small file that the
        service sends itself holds one of the five slots until it is read.
        """
        async with self._open_text() as text:
            yield MemberStream(
                text,
                request_id=self.request_id,
                cohort_id=self.cohort_id,
                token=self.token,
            )

    @asynccontextmanager
    async def record_batches(
        self, *, amplitude_id: AmplitudeId = "text"
    ) -> AsyncIterator[AsyncIterator[RecordBatch]]:
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

        async with (
            self._open_text() as text,
            aclosing(self._batches(text, amplitude_id)) as batches,
        ):
            yield batches

    @asynccontextmanager
    async def _open_text(self) -> AsyncIterator[AsyncIterator[bytes]]:
        await self.wait()

        pipe = Pipe(request_id=self.request_id, never=self._never)
        transfer = self._transfer(pipe, None)

        async with background(pipe.fill(partial(self._run, transfer))):
            yield self._text(pipe)

    async def _batches(
        self, text: AsyncIterator[bytes], amplitude_id: AmplitudeId
    ) -> AsyncGenerator[RecordBatch]:
        with self._carrying_token(), self._about_the_file(None):
            async for batch in record_batches(text, amplitude_id=amplitude_id):
                yield batch

    async def _watch(self, timeout: float) -> None:
        clock = self._session.clock
        started = clock.now()
        deadline = started + timeout
        chance = self._session.chance
        delay = first_delay(self._polling, age=self._age(), jitter=chance())
        delay = min(delay, timeout)

        while True:
            await clock.sleep(delay)
            word = await self._glance(deadline)
            left = deadline - clock.now()
            upcoming = next_delay(self._polling, left=left, jitter=chance())

            self._session.emit(
                StatusPolled(
                    request_id=self.request_id,
                    word=word,
                    elapsed=clock.now() - started,
                    next_poll=None if self._is_done else upcoming,
                )
            )

            if self._is_done:
                return

            if upcoming is None:
                raise self._timed_out(timeout, word)

            delay = upcoming

    async def _glance(self, deadline: float) -> str:
        left = max(0.0, deadline - self._session.clock.now())
        send = partial(self._session.send, self._status_request, retrying=NO_RETRIES)

        with anyio.move_on_after(left + _LAST_POLL):
            try:
                return (await self._ask(send)).word
            except (RateLimitedError, ServerError, TransportError) as weather:
                _logger.info(
                    "status not told, asking again",
                    extra={"request_id": self.request_id},
                )
                return f"no answer ({type(weather).__name__})"

        return "no answer"

    async def _ask(self, send: Callable[[], Awaitable[Response]]) -> ExportStatus:
        try:
            response = await send()
        except NotFoundError as error:
            raise self._expired(error) from error

        status = responses.export_status(self._status_request, response)

        if isinstance(status, responses.JobFailed):
            raise ExportFailedError(
                f"export {self.request_id} of cohort {self.cohort_id} failed: the "
                f"service says {status.word!r}; request it again, which spends "
                f"another export",
                request_id=self.request_id,
                cohort_id=self.cohort_id,
            )

        self._is_done = self._is_done or status.done

        return status

    async def _save(
        self, target: Target, progress: Callable[[BytesReceived], None] | None
    ) -> SavedExport:
        delivery = Delivery(partial(Saving, target, never=self._never))
        transfer = self._transfer(delivery, progress)

        try:
            await self._run(transfer)
        finally:
            await delivery.discard()

        saved = delivery.stage

        return SavedExport(
            path=target.path,
            size=saved.file.digest.size,
            sha256=attrs.evolve(saved.file.digest, request_id=self.request_id),
            rows=saved.rows,
            downloaded=transfer.progress.downloaded,
            links=transfer.progress.links,
            token=self.token,
        )

    async def _text(self, pipe: Pipe) -> AsyncIterator[bytes]:
        with self._carrying_token(), self._about_the_file(None):
            async for text in pipe:
                yield text

    async def _run(self, transfer: Transfer) -> None:
        try:
            await transfer.run()
        except NotFoundError as error:
            raise self._expired(error) from error

    def _transfer(
        self,
        receiver: Delivery[Saving] | Pipe,
        progress: Callable[[BytesReceived], None] | None,
    ) -> Transfer:
        request = requests.export_file(self.request_id, self.cohort_id, self._routes)

        return Transfer(
            self._session,
            request,
            receiver,
            request_id=self.request_id,
            progress=progress,
        )

    @property
    def _status_request(self) -> Request:
        return requests.export_status(self.request_id, self.cohort_id, self._routes)

    @property
    def _never(self) -> bytes:
        # The third-party description has a JSON object in the file's place.
        return b"<{[" if self._routes is Routes.VENDOR else b"<"

    def _age(self) -> float | None:
        if self._ticket.requested_at is None:
            return None

        now = self._session.clock.utcnow()

        return (now - self._ticket.requested_at).total_seconds()

    def _timed_out(self, timeout: float, word: str) -> ExportTimeoutError:
        return ExportTimeoutError(
            f"export {self.request_id} of cohort {self.cohort_id} was still running "
            f"after {timeout:g} s (last word: {word!r}); its file stays available "
            f'for seven days, continue with `resume_export("{self.request_id}")`',
            request_id=self.request_id,
            cohort_id=self.cohort_id,
        )

    def _expired(self, error: NotFoundError) -> ExportExpiredError:
        age = self._age()
        days = "" if age is None else f", and was requested {age / 86_400:.1f} days ago"

        return ExportExpiredError(
            f"the service does not know export {self.request_id} ({error.status})"
            f"{days}; files live {FILE_LIFE.days} days and belong to one project: check "
            f"the keys and the region, or request the export again",
            request_id=self.request_id,
            cohort_id=self.cohort_id,
        )

    @contextmanager
    def _carrying_token(self) -> Iterator[None]:
        try:
            yield
        except CohortsError as error:
            if error.token is None:
                error.token = self.token
            raise

    @contextmanager
    def _about_the_file(self, target: Target | None) -> Iterator[None]:
        try:
            yield
        except CsvError as error:
            raise error.of_job(
                self.request_id, cohort_id=self.cohort_id, token=self.token
            ) from None
        except Malformed as error:
            raise MalformedFileError(
                f"the file of export {self.request_id} cannot be used: {error}; try "
                f"once more, and if it stays so, tell Amplitude",
                request_id=self.request_id,
                cohort_id=self.cohort_id,
            ) from None
        except OSError as error:
            if isinstance(error, CohortsError) or target is None:
                raise
            raise StorageError(
                f"{target.path} could not be written: {error.strerror or error}; mend "
                f"that and continue with `resume_export()`, which spends no export",
                request_id=self.request_id,
                cohort_id=self.cohort_id,
            ) from error
