"""
Batches onto the wire, one at a time for each cohort, and the account of them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ..._core.batching import Batch
from ..._core.journal import Written, batch_line, done_line
from ..._core.wire import Request, Response
from ..._core.writes import Change, Membership, membership, skipped_ids
from ...errors import InvalidInputError, PartialUploadError
from ...events import BatchWritten
from ..session import Session
from .ids import Ids
from .journal import Journal

OnSkipped: TypeAlias = Callable[[Sequence[str]], Awaitable[None] | None]
"""
Told the ids that a batch skipped, as soon as they are known; may be async.
"""


class Writer:
    """
    Writes the batches of one write, and knows what was written.

    Attributes:
        journal: Where each accepted batch is noted.
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
        Tell whether an earlier run wrote this batch, the next in order.

        Raises:
            InvalidInputError: It wrote another one.
        """
        if not self.progress.has(operation, batch, index=self._position):
            return False

        self._position += 1
        return True

    async def send(self, cohort_id: str, request: Request) -> Response:
        """
        Send one write when nobody else writes to the cohort.

        The service answers 429 to concurrent writes to one cohort.
        """
        async with self.session.writing_to(cohort_id):
            return await self.session.send(request)

    async def change(
        self, cohort_id: str, spec: Membership, change: Change, batch: Batch
    ) -> list[str]:
        """
        Add or remove the ids of a batch; return those the service skipped.
        """
        request = membership(cohort_id, spec, [(change, batch.pieces)])

        return skipped_ids(request, await self.send(cohort_id, request))

    async def accepted(
        self,
        operation: str,
        batch: Batch,
        *,
        cohort_id: str | None,
        matched: int | None,
        skipped: Sequence[str] = (),
    ) -> None:
        """
        Take note of a batch that was written.
        """
        written = Written(
            operation=operation,
            count=batch.count,
            digest=batch.digest,
            matched=matched,
        )
        progress = self.progress
        progress.cohort_id, progress.attempted_at = cohort_id, None
        progress.written.append(written)
        self._position += 1

        await self.journal.note(
            batch_line(cohort_id, written, adopted=progress.adopted)
        )

        if cohort_id is not None:
            self._tell(cohort_id, operation, batch)

        if skipped and self._on_skipped is not None:
            told = self._on_skipped(skipped)
            if told is not None:
                await told

    async def finish(self) -> None:
        """
        Take note that there are no more batches.

        Raises:
            InvalidInputError: An earlier run had written more.
        """
        self.progress.check_end(self._position)

        if not self.progress.done:
            self.progress.done = True
            await self.journal.note(done_line())

    def resumed(self, operation: str) -> int:
        """
        Count the batches that an earlier run had written.
        """
        earlier = self.progress.written[: self._resumed]

        return sum(1 for written in earlier if written.operation == operation)

    def check_partial(self, error: Exception, report: object) -> None:
        """
        Say so when an error leaves a write half done.

        Raises:
            PartialUploadError: Some batches are written.
        """
        position, cohort_id = len(self.progress.written), self.progress.cohort_id
        is_new = position == self._resumed

        if cohort_id is None or not position:
            return

        # A mistake in the call is no failure of the write it would resume.
        if is_new and isinstance(error, InvalidInputError):
            return

        raise PartialUploadError(
            f"{position} batches are written to cohort {cohort_id}, and batch "
            f"{position} failed: {error}. Resume from the journal if there is one, or "
            f"write the same ids to that cohort again: repeating does no harm",
            report=report,
            next_batch=position,
            cohort_id=cohort_id,
        ) from error

    def _tell(self, cohort_id: str, operation: str, batch: Batch) -> None:
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
        InvalidInputError: The ids come in an order that nobody can repeat.
    """
    if journal is not None and not all(each.ordered for each in ids):
        raise InvalidInputError(
            "a set has another order in every process, so a journal of it could not "
            "be resumed; pass sorted(ids)"
        )
