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
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TypeAlias

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
from .._core.writes import Change, Membership, membership_request, skipped_ids
from .._exports.app_jobs import AppJobs
from .._io.cancellation import finish_despite_cancel, in_thread
from .._io.http.session import Session
from .._io.sinks.part_file import sync_folder
from ..errors import InvalidInputError, PartialWriteError
from ..events import BatchWritten

OnSkipped: TypeAlias = Callable[[Sequence[str]], Awaitable[None] | None]
"""Called with the ids that a batch skipped, as soon as they are known; may be async."""


@attrs.define
class Writer:
    """
    Sends the batches of one write, and knows which were written.

    `skipped` holds the ids that this run's batches skipped, by operation.
    """

    session: Session
    jobs: AppJobs
    progress: WriteProgress
    _file: FileIO | None
    _on_skipped: OnSkipped | None
    skipped: dict[str, list[str]] = attrs.field(factory=lambda: defaultdict(list))
    _position: int = 0
    _resumed: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._resumed = len(self.progress.written)

    async def unwritten(
        self, operation: str, batches: AsyncGenerator[Batch]
    ) -> AsyncGenerator[Batch]:
        """Yield the batches that no earlier run wrote; raise if it wrote others."""
        async with aclosing(batches):
            async for batch in batches:
                if self.progress.has(operation, batch, index=self._position):
                    self._position += 1
                else:
                    yield batch

    async def send(self, cohort_id: str, request: Request) -> Response:
        """
        Send one write while no other is sent to the cohort.

        Amplitude answers 429 to concurrent writes to one cohort.
        """
        async with self.session.limiter.cohort_lock(cohort_id):
            return await self.session.send(
                request, before=partial(self.jobs.record_write, cohort_id)
            )

    async def write_batch(
        self,
        operation: str,
        cohort_id: str,
        spec: Membership,
        change: Change,
        batch: Batch,
    ) -> None:
        """Add or remove the ids of a batch, and record it."""
        request = membership_request(cohort_id, spec, change, batch.pieces)
        skipped = skipped_ids(request, await self.send(cohort_id, request))
        self.skipped[operation] += skipped
        await self.record_batch(
            operation,
            batch,
            cohort_id=cohort_id,
            matched=batch.count - len(skipped),
            skipped=skipped,
        )

    async def record_batch(
        self,
        operation: str,
        batch: Batch,
        *,
        cohort_id: str | None,
        matched: int | None,
        skipped: Sequence[str],
    ) -> None:
        """Record a batch that was written, and announce it."""
        progress = self.progress
        written = WrittenBatch(
            operation=operation,
            count=batch.count,
            digest=batch.digest,
            matched=matched,
        )
        progress.cohort_id, progress.attempted_at = cohort_id, None
        progress.written.append(written)
        self._position += 1

        line = batch_line(cohort_id, written, adopted=progress.adopted)
        # A batch that is recorded is not sent again, so nothing else names what it
        # skipped: both, or neither.
        await finish_despite_cancel(
            self._record_and_announce(written, batch, line, skipped)
        )

    async def _record_and_announce(
        self, written: WrittenBatch, batch: Batch, line: bytes, skipped: Sequence[str]
    ) -> None:
        await self.append(line)
        cohort_id = self.progress.cohort_id

        if cohort_id is not None:
            self.session.context.emit(
                BatchWritten(
                    cohort_id=cohort_id,
                    operation=written.operation,
                    batch=batch.index,
                    ids=batch.count,
                    at=self.session.context.clock.utcnow(),
                )
            )

        if skipped and self._on_skipped is not None:
            pending = self._on_skipped(skipped)
            if pending is not None:
                await pending

    async def append(self, line: bytes) -> None:
        """Append a line to the journal, if there is one, and wait until it is on disk."""
        if self._file is None:
            return

        # What has happened has to be recorded even if the caller is cancelled.
        await in_thread(partial(_append, self._file, line))

    async def finish(self) -> None:
        """Record that there are no more batches; raise if an earlier run wrote more."""
        self.progress.check_end(self._position)

        if not self.progress.done:
            self.progress.done = True
            await self.append(done_line())

    def resumed(self, operation: str) -> int:
        """Return how many batches an earlier run wrote."""
        earlier = self.progress.written[: self._resumed]

        return sum(written.operation == operation for written in earlier)

    @contextmanager
    def partial_errors(self, report: Callable[[], object]) -> Generator[None]:
        """Turn an error into `PartialWriteError` if some batches are written."""
        try:
            yield
        except Exception as error:  # the caller's ids may raise anything
            count, cohort_id = len(self.progress.written), self.progress.cohort_id

            # A mistake in the call is no failure of the write it would resume.
            is_mistake = count == self._resumed and isinstance(error, InvalidInputError)

            if cohort_id is None or not count or is_mistake:
                raise

            raise PartialWriteError(
                f"{count} batches are written to cohort {cohort_id}, and batch {count} "
                f"failed: {error}. Resume from the journal if there is one, or write "
                f"the same ids to that cohort again: repeating does no harm",
                report=report(),
                next_batch=count,
                cohort_id=cohort_id,
            ) from error


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

    file, progress = await in_thread(partial(_open, Path(journal), kind, parameters))

    with file:
        yield Writer(session, jobs, progress, file, on_skipped)


def _open(
    path: Path, kind: str, parameters: Mapping[str, object]
) -> tuple[FileIO, WriteProgress]:
    try:
        # Unbuffered: close() would write again what a full disk refused, and its
        # error would hide the one that says what was written.
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise InvalidInputError(f"no journal can be kept at {path}: {error}") from error

    try:
        _lock(file, path)
        file.seek(0)
        parsed = parse(file.read())
        progress = check_same(parsed, kind, parameters)

        # A crash may have left half a line at the end.
        file.truncate(parsed.good)

        if parsed.kind is None:
            _append(file, start_line(kind, parameters))
            sync_folder(path.parent)
    except BaseException:
        file.close()
        raise

    return file, progress


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
