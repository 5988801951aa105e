"""Sends batches, one at a time for each cohort, and keeps the record of them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from .._core.batching import Batch
from .._core.journal import WrittenBatch, batch_line, done_line
from .._core.messages import Request, Response
from .._core.writes import Change, Membership, membership, skipped_ids
from .._io.http.session import Session
from ..errors import InvalidInputError, PartialWriteError
from ..events import BatchWritten
from .id_stream import Ids
from .journal import Journal

OnSkipped: TypeAlias = Callable[[Sequence[str]], Awaitable[None] | None]
"""Called with the ids that a batch skipped, as soon as they are known; may be async."""


class Writer:
    """
    Sends the batches of one write, and knows what was written.

    Attributes:
        journal: Where each accepted batch is recorded.
    """

    def __init__(
        self, session: Session, journal: Journal, on_skipped: OnSkipped | None
    ) -> None:
        self.session = session
        self.journal = journal
        self.progress = journal.progress
        self._on_skipped = on_skipped
        self._resumed = len(journal.progress.written)
        self._position = 0

    def was_written(self, operation: str, batch: Batch) -> bool:
        """
        Whether an earlier run wrote this batch, the next in order.

        Raises:
            InvalidInputError: It wrote another one.
        """
        if not self.progress.has(operation, batch, index=self._position):
            return False

        self._position += 1
        return True

    async def send(self, cohort_id: str, request: Request) -> Response:
        """
        Send one write while no other is sent to the cohort.

        The service answers 429 to concurrent writes to one cohort.
        """
        async with self.session.writing_to(cohort_id):
            return await self.session.send(request)

    async def send_batch(
        self, cohort_id: str, spec: Membership, change: Change, batch: Batch
    ) -> list[str]:
        """Add or remove the ids of a batch; return those the service skipped."""
        request = membership(cohort_id, spec, [(change, batch.pieces)])

        return skipped_ids(request, await self.send(cohort_id, request))

    async def record_batch(
        self,
        operation: str,
        batch: Batch,
        *,
        cohort_id: str | None,
        matched: int | None,
        skipped: Sequence[str] = (),
    ) -> None:
        """Record a batch that was written, and announce it."""
        written = WrittenBatch(
            operation=operation,
            count=batch.count,
            digest=batch.digest,
            matched=matched,
        )
        progress = self.progress
        progress.cohort_id, progress.attempted_at = cohort_id, None
        progress.written.append(written)
        self._position += 1

        await self.journal.append(
            batch_line(cohort_id, written, adopted=progress.adopted)
        )

        if cohort_id is not None:
            self._emit_written(cohort_id, operation, batch)

        if skipped and self._on_skipped is not None:
            pending = self._on_skipped(skipped)
            if pending is not None:
                await pending

    async def finish(self) -> None:
        """
        Record that there are no more batches.

        Raises:
            InvalidInputError: An earlier run had written more.
        """
        self.progress.check_end(self._position)

        if not self.progress.done:
            self.progress.done = True
            await self.journal.append(done_line())

    def resumed(self, operation: str) -> int:
        """Return how many batches an earlier run had written."""
        earlier = self.progress.written[: self._resumed]

        return sum(1 for written in earlier if written.operation == operation)

    def raise_if_partial(self, error: Exception, report: object) -> None:
        """
        Raise another error if this one leaves a write half done.

        Raises:
            PartialWriteError: Some batches are written.
        """
        position, cohort_id = len(self.progress.written), self.progress.cohort_id
        is_new = position == self._resumed

        if cohort_id is None or not position:
            return

        # A mistake in the call is no failure of the write it would resume.
        if is_new and isinstance(error, InvalidInputError):
            return

        raise PartialWriteError(
            f"{position} batches are written to cohort {cohort_id}, and batch "
            f"{position} failed: {error}. Resume from the journal if there is one, or "
            f"write the same ids to that cohort again: repeating does no harm",
            report=report,
            next_batch=position,
            cohort_id=cohort_id,
        ) from error

    def _emit_written(self, cohort_id: str, operation: str, batch: Batch) -> None:
        self.session.context.emit(
            BatchWritten(
                cohort_id=cohort_id,
                operation=operation,
                batch=batch.index,
                ids=batch.count,
                at=self.session.context.clock.utcnow(),
            )
        )


def check_resumable(journal: str | os.PathLike[str] | None, *ids: Ids) -> None:
    """
    Make sure that what a journal would hold can be recognised later.

    Raises:
        InvalidInputError: A later process would read the ids in another order.
    """
    if journal is not None and not all(each.ordered for each in ids):
        raise InvalidInputError(
            "a set has another order in every process, so a journal of it could not "
            "be resumed; pass sorted(ids)"
        )
