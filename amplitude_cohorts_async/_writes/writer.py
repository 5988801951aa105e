"""
Sends the batches of one write in order, and keeps a journal of them on disk.

Each line of the journal is on disk before the next request is sent.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Self, TypeAlias

import attrs

from .._core.batching import Batch
from .._core.journal import (
    WriteProgress,
    WrittenBatch,
    batch_line,
    check_same,
    done_line,
    parse,
    start_line,
)
from .._core.messages import Request, Response
from .._core.writes import Entry, Membership, membership_request, skipped_ids
from .._exports.app_jobs import AppJobs
from .._io.cancellation import finish_despite_cancel, in_thread
from .._io.http.session import Session
from .._io.sinks.part_file import sync_folder
from ..errors import InvalidIdsError, InvalidInputError, PartialWriteError, StorageError
from ..events import BatchWritten

OnSkipped: TypeAlias = Callable[[Sequence[str]], Awaitable[None] | None]
"""Called with the ids that a batch skipped, as soon as they are known; may be async."""


@attrs.frozen
class Accepted:
    """A batch that was accepted: its record, its index, and the ids that it skipped."""

    written: WrittenBatch
    index: int
    skipped: Sequence[str]

    @classmethod
    def of(
        cls,
        operation: str,
        batch: Batch,
        *,
        matched: int | None,
        skipped: Sequence[str],
        part: int = 0,
    ) -> Self:
        """Return the record of a batch that was sent."""
        written = WrittenBatch(
            operation=operation,
            part=part,
            count=batch.count,
            digest=batch.digest,
            matched=matched,
        )

        return cls(written, batch.index, skipped)


@attrs.define
class Writer:
    """
    Sends the batches of one write, and knows which were written.

    `skipped` holds the ids that this run's batches skipped, by part of the update.
    """

    session: Session
    jobs: AppJobs
    progress: WriteProgress
    _file: FileIO | None
    _on_skipped: OnSkipped | None
    skipped: dict[int, list[str]] = attrs.field(factory=lambda: defaultdict(list))
    _position: int = 0
    _resumed: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._resumed = len(self.progress.written)

    def is_written(self, operation: str, batch: Batch, *, part: int = 0) -> bool:
        """Whether an earlier run wrote the next batch; raises if it wrote another."""
        written = self.progress.has(operation, batch, part=part, index=self._position)
        self._position += written

        return written

    async def send(self, cohort_id: str, request: Request) -> Response:
        """
        Send one write while no other is sent to the cohort.

        Amplitude answers 429 to concurrent writes to one cohort.
        """
        async with AsyncExitStack() as stack:
            with self.session.context.waits.watch(
                f"the end of another write to cohort {cohort_id}", cohort_id=cohort_id
            ):
                await stack.enter_async_context(
                    self.session.limiter.cohort_lock(cohort_id)
                )

            return await self.session.send(
                request, before=partial(self.jobs.record_write, cohort_id)
            )

    async def write(
        self,
        cohort_id: str,
        spec: Membership,
        entries: Sequence[Entry],
        *,
        operation: str | None = None,
    ) -> None:
        """Add and remove the ids of some entries in one request, and record them."""
        request = membership_request(cohort_id, spec, entries)
        answer = await self.send(cohort_id, request)
        accepted: list[Accepted] = []

        for entry, skipped in zip(
            entries, skipped_ids(request, answer, entries), strict=True
        ):
            self.skipped[entry.part] += skipped
            accepted.append(
                Accepted.of(
                    operation or entry.change.lower(),
                    entry.batch,
                    part=entry.part,
                    matched=entry.batch.count - len(skipped),
                    skipped=skipped,
                )
            )

        await self.record(cohort_id, accepted)

    async def record(self, cohort_id: str | None, accepted: Sequence[Accepted]) -> None:
        """Record batches that one request wrote, and announce them."""
        progress = self.progress
        progress.cohort_id, progress.attempted_at = cohort_id, None
        progress.written += [batch.written for batch in accepted]
        self._position += len(accepted)

        # A batch that is recorded is not sent again, so nothing else names what it
        # skipped: both, or neither.
        await finish_despite_cancel(self._record_and_announce(accepted))

    async def _record_and_announce(self, accepted: Sequence[Accepted]) -> None:
        cohort_id, adopted = self.progress.cohort_id, self.progress.adopted
        lines = [
            batch_line(cohort_id, batch.written, adopted=adopted) for batch in accepted
        ]
        await self.append(b"".join(lines))

        for batch in accepted:
            self._announce(batch)

        skipped = [id_ for batch in accepted for id_ in batch.skipped]

        if skipped and self._on_skipped is not None:
            pending = self._on_skipped(skipped)
            if pending is not None:
                await pending

    def _announce(self, batch: Accepted) -> None:
        if (cohort_id := self.progress.cohort_id) is not None:
            self.session.context.emit(
                BatchWritten(
                    cohort_id=cohort_id,
                    operation=batch.written.operation,
                    batch=batch.index,
                    ids=batch.written.count,
                    at=self.session.context.clock.utcnow(),
                )
            )

    async def append(self, line: bytes) -> None:
        """Append a line to the journal, if there is one; return when it is on disk."""
        if self._file is None:
            return

        # What has happened has to be recorded even if the caller is cancelled.
        with _unwritable(self._file.name):
            await in_thread(partial(_append, self._file, line))

    async def finish(self) -> None:
        """Record that there are no more batches; raise if an earlier run wrote more."""
        self.progress.check_end(self._position)

        if not self.progress.done:
            self.progress.done = True
            await self.append(done_line())

    @property
    def earlier(self) -> Sequence[WrittenBatch]:
        """The batches that an earlier run wrote."""
        return self.progress.written[: self._resumed]

    @contextmanager
    def partial_errors(self, report: Callable[[], object]) -> Generator[None]:
        """Turn an error into `PartialWriteError` if some batches are written."""
        try:
            yield
        except Exception as error:  # the caller's ids may raise anything
            written, cohort_id = self.progress.written, self.progress.cohort_id
            count, ids = len(written), sum(batch.count for batch in written)

            # A mistake in the call is no failure of the write it would resume.
            is_mistake = count == self._resumed and isinstance(error, InvalidInputError)

            if cohort_id is None or not count or is_mistake:
                raise

            raise PartialWriteError(
                f"{count} batches ({ids:,} ids) are written to cohort {cohort_id}, and "
                f"batch {count} failed: {error}. {_advice(error)}",
                report=report(),
                next_batch=count,
                cohort_id=cohort_id,
            ) from error


def _advice(error: Exception) -> str:
    if isinstance(error, InvalidIdsError):
        return (
            "The refused request wrote nothing; what earlier ones wrote stays. Without "
            "those ids, write the others to that cohort again, and with a new journal "
            "if there is one"
        )

    return (
        "Resume from the journal if there is one, or write the same ids to that cohort "
        "again: repeating does no harm"
    )


@asynccontextmanager
async def open_writer(
    session: Session,
    jobs: AppJobs,
    journal: str | os.PathLike[str] | None,
    kind: str,
    parameters: Mapping[str, object],
    *,
    on_skipped: OnSkipped | None,
) -> AsyncGenerator[Writer]:
    """Begin a write, or go on with the one in *journal*, which is locked meanwhile."""
    if journal is None:
        yield Writer(session, jobs, WriteProgress(), None, on_skipped)
        return

    with ExitStack() as stack:

        def enter() -> tuple[FileIO, WriteProgress]:
            """Open it in a thread: a cancellation that comes meanwhile closes it."""
            file, progress = _open(Path(journal), kind, parameters)
            return stack.enter_context(file), progress

        file, progress = await in_thread(enter)
        yield Writer(session, jobs, progress, file, on_skipped)


def _open(
    path: Path, kind: str, parameters: Mapping[str, object]
) -> tuple[FileIO, WriteProgress]:
    try:
        file = _open_file(path)
    except OSError as error:
        raise InvalidInputError(f"no journal can be kept at {path}: {error}") from error

    try:
        _lock(file, path)
        file.seek(0)
        parsed = parse(file.read())
        progress = check_same(parsed, kind, parameters)

        with _unwritable(path):
            # A crash may have left half a line at the end.
            file.truncate(parsed.good)

            if parsed.kind is None:
                _append(file, start_line(kind, parameters))
                sync_folder(path.parent)
    except BaseException:
        file.close()
        raise

    return file, progress


def _open_file(path: Path) -> FileIO:
    # A pipe would wait for a reader, and a device has no end.
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")

    # Unbuffered: close() would write again what a full disk refused, and its error
    # would hide the one that says what was written.
    return path.open("a+b", buffering=0)


@contextmanager
def _unwritable(path: object) -> Generator[None]:
    try:
        yield
    except OSError as error:
        # The error is also that of an export's file; a journal has none.
        raise StorageError(
            f"the journal {path} cannot be written: {error.strerror or error}; make "
            f"room, or name a journal on another disk",
            request_id="",
        ) from error


def _append(file: FileIO, line: bytes) -> None:
    end = file.seek(0, os.SEEK_END)
    view = memoryview(line)

    try:
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())
    except OSError:
        # Half a line would corrupt the next one.
        file.truncate(end)
        raise


def _lock(file: FileIO, path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not everywhere
    except ImportError:  # pragma: no cover - Windows has no flock()
        return

    try:
        # Two runs with one journal could create two cohorts.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InvalidInputError(
            f"the journal {path} is in use by another run; wait until it has ended"
        ) from error
