"""Adds ids to a cohort and removes others, in batches."""

from __future__ import annotations

import os
from contextlib import aclosing

import attrs

from .._core.batching import MOST_MEMBERS
from .._core.id_sets import SeenIds
from .._core.ids import checked_id
from .._core.writes import Change, Membership
from .._io.http.session import Session
from ..errors import InvalidInputError
from ..models import MembershipReport, OperationReport
from .batches import Source, prescan, release
from .id_stream import Ids, IdSource, buffered_head, check_resumable, ids_of
from .writer import OnSkipped, Writer, open_journal


async def update_membership(
    session: Session,
    cohort_id: str,
    spec: Membership,
    *,
    add: IdSource = (),
    remove: IdSource = (),
    journal: str | os.PathLike[str] | None = None,
    on_skipped: OnSkipped | None = None,
) -> MembershipReport:
    """Check the ids, add some to a cohort and remove others from it."""
    checked_id(cohort_id, "cohort id")
    adding, removing = ids_of(add), ids_of(remove)
    check_resumable(journal, adding, removing)

    async with buffered_head(adding) as adding, buffered_head(removing) as removing:
        added, removed = SeenIds(most=MOST_MEMBERS), SeenIds()
        sources = await _prescan(adding, removing, added, removed)

        if all(source.is_empty for source in sources):
            raise InvalidInputError(
                f"there are no ids to add to cohort {cohort_id} and none to remove"
            )

        report = await write_membership(
            session,
            cohort_id,
            spec,
            *sources,
            journal=journal,
            on_skipped=on_skipped,
        )
        await release(added)
        await release(removed)

    return report


async def _prescan(
    adding: Ids, removing: Ids, added: SeenIds, removed: SeenIds
) -> tuple[Source, Source]:
    add = await prescan(adding, added)
    # Even ids that are read only once are in `added` when the removals are sent.
    remove = await prescan(removing, removed, excluding=added)

    if adding.again and removing.again:
        await release(added)
        await release(removed)
    elif removing.again:
        add = attrs.evolve(add, excluding=removed)

    return add, remove


async def write_membership(
    session: Session,
    cohort_id: str,
    spec: Membership,
    add: Source,
    remove: Source,
    *,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
    remove_first: bool = False,
) -> MembershipReport:
    """
    Add one source of ids and remove the other, in separate requests.

    Args:
        remove_first: Otherwise adding comes first, so that a cohort whose
            members change is not nearly empty in between.
    """
    changes: list[tuple[Change, Source]] = [("ADD", add), ("REMOVE", remove)]
    parameters = {
        "cohort_id": cohort_id,
        "id_type": spec.id_type.name,
        "count_group": spec.count_group,
        "skip_invalid_ids": spec.skip_invalid_ids,
    }

    async with open_journal(journal, "membership", parameters) as log:
        writer = Writer(session, log, on_skipped)
        run = _MembershipRun(cohort_id, spec, writer)

        with writer.partial_errors(run.report):
            for change, source in reversed(changes) if remove_first else changes:
                await run.write(change, source)

            await writer.finish()

        return run.report()


class _MembershipRun:
    def __init__(self, cohort_id: str, spec: Membership, writer: Writer) -> None:
        self._cohort_id = cohort_id
        self._spec = spec
        self._writer = writer
        self._skipped: dict[str, list[str]] = {"add": [], "remove": []}

    async def write(self, change: Change, source: Source) -> None:
        operation = change.lower()
        unwritten = self._writer.unwritten(operation, source.batches())

        async with aclosing(unwritten) as batches:
            async for batch in batches:
                skipped = await self._writer.send_batch(
                    self._cohort_id, self._spec, change, batch
                )
                self._skipped[operation] += skipped
                await self._writer.record_batch(
                    operation,
                    batch,
                    cohort_id=self._cohort_id,
                    matched=batch.count - len(skipped),
                    skipped=skipped,
                )

    def report(self) -> MembershipReport:
        return MembershipReport(
            cohort_id=self._cohort_id,
            added=self._operation("add"),
            removed=self._operation("remove"),
        )

    def _operation(self, operation: str) -> OperationReport:
        progress = self._writer.progress
        written = [batch for batch in progress.written if batch.operation == operation]

        return OperationReport(
            sent=sum(batch.count for batch in written),
            skipped_ids=self._skipped[operation],
            batches=len(written),
            resumed=self._writer.resumed(operation),
        )
