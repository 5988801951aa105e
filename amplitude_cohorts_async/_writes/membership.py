"""Adds ids to a cohort and removes others, in batches."""

from __future__ import annotations

import os
from contextlib import aclosing
from functools import partial

import attrs

from .._core.batching import MOST_MEMBERS
from .._core.id_sets import SeenIds
from .._core.ids import checked_id
from .._core.writes import Change, Membership
from .._exports.app_jobs import AppJobs
from .._io.http.session import Session
from ..errors import InvalidInputError
from ..models import MembershipReport, OperationReport
from .batches import Source, prescan, release
from .id_stream import Ids, IdSource, buffered_head, check_resumable, ids_of
from .writer import OnSkipped, Writer, open_writer


async def update_membership(
    session: Session,
    jobs: AppJobs,
    cohort_id: str,
    spec: Membership,
    *,
    add: IdSource,
    remove: IdSource,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
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
            jobs,
            cohort_id,
            spec,
            add=sources[0],
            remove=sources[1],
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
    jobs: AppJobs,
    cohort_id: str,
    spec: Membership,
    *,
    add: Source,
    remove: Source,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
    remove_first: bool = False,
) -> MembershipReport:
    """
    Add one source of ids and remove the other, in separate requests.

    Adding comes first as a rule, so that the cohort is not nearly empty in between.
    """
    changes: list[tuple[Change, Source]] = [("ADD", add), ("REMOVE", remove)]
    parameters = {
        "cohort_id": cohort_id,
        "id_type": spec.id_type.name,
        "count_group": spec.count_group,
        "skip_invalid_ids": spec.skip_invalid_ids,
    }

    async with open_writer(
        session, jobs, journal, "membership", parameters, on_skipped=on_skipped
    ) as writer:
        report = partial(_report, cohort_id, writer)

        with writer.partial_errors(report):
            for change, source in reversed(changes) if remove_first else changes:
                await _write(writer, cohort_id, spec, change, source)

            await writer.finish()

        return report()


async def _write(
    writer: Writer, cohort_id: str, spec: Membership, change: Change, source: Source
) -> None:
    operation = change.lower()

    async with aclosing(writer.unwritten(operation, source.batches())) as batches:
        async for batch in batches:
            await writer.write_batch(operation, cohort_id, spec, change, batch)


def _report(cohort_id: str, writer: Writer) -> MembershipReport:
    return MembershipReport(
        cohort_id=cohort_id,
        added=_operation("add", writer),
        removed=_operation("remove", writer),
    )


def _operation(operation: str, writer: Writer) -> OperationReport:
    written = [
        batch for batch in writer.progress.written if batch.operation == operation
    ]

    return OperationReport(
        sent=sum(batch.count for batch in written),
        skipped_ids=writer.skipped[operation],
        batches=len(written),
        resumed=writer.resumed(operation),
    )
