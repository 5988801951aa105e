"""
Adds ids to a cohort and removes others.

Operations share requests: each begins in the request that the one before it ends in,
if that has room. So all of them are one step while they fit into 100,000 ids.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial

import attrs

from .._core.batching import MOST_MEMBERS
from .._core.id_sets import SeenIds
from .._core.ids import cohort_id_of
from .._core.journal import WrittenBatch
from .._core.writes import Change, Entry, Membership
from .._exports.app_jobs import AppJobs
from .._id_source import IdSource
from .._io.http.session import Session
from ..errors import InvalidInputError
from ..models import (
    Cohort,
    IdType,
    MembershipOperation,
    MembershipReport,
    OperationReport,
)
from .batches import Source, is_full, prescan, release, room_after
from .id_stream import Ids, buffered_head, check_resumable, ids_of
from .writer import OnSkipped, Writer, open_writer


@attrs.frozen(kw_only=True)
class Operation:
    """One operation of an update; `part` is its position there."""

    part: int
    change: Change
    id_type: IdType
    source: Source


async def update_membership(
    session: Session,
    jobs: AppJobs,
    cohort: str | Cohort,
    spec: Membership,
    *,
    add: IdSource,
    remove: IdSource,
    operations: Iterable[MembershipOperation] | None,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
) -> MembershipReport:
    """Check the ids, add some to a cohort and remove others from it."""
    cohort_id = cohort_id_of(cohort)
    asked = _asked(add, remove, operations, spec.id_type)
    streams = [ids_of(op.ids, amplitude=spec.amplitude(op.id_type)) for op in asked]
    check_resumable(journal, *streams)

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(buffered_head(i)) for i in streams]
        seen = _Seen()
        scanned = await _scan(asked, streams, seen)

        if all(operation.source.is_empty for operation in scanned):
            raise InvalidInputError(
                f"there are no ids to add to cohort {cohort_id} and none to remove"
            )

        # Streams are still to be compared with what came before.
        if all(ids.again for ids in streams):
            await seen.release()

        report = await write_membership(
            session,
            jobs,
            cohort_id,
            spec,
            scanned,
            journal=journal,
            on_skipped=on_skipped,
            by_operation=operations is not None,
        )
        await seen.release()

    return report


def _asked(
    add: IdSource,
    remove: IdSource,
    operations: Iterable[MembershipOperation] | None,
    id_type: IdType,
) -> list[MembershipOperation]:
    if operations is None:
        return [
            MembershipOperation("ADD", add, id_type),
            MembershipOperation("REMOVE", remove, id_type),
        ]

    if not (_is_left_out(add) and _is_left_out(remove)):
        raise InvalidInputError(
            "ids were given as add= or remove= and as operations=; put all of them "
            "into operations="
        )

    asked = list(operations)

    for operation in asked:
        if not isinstance(operation, MembershipOperation):
            raise InvalidInputError(
                f"operations= holds a {type(operation).__name__}; pass a list of "
                f'MembershipOperation("ADD", ids)'
            )

    return asked


def _is_left_out(ids: IdSource) -> bool:
    # The default; a Series cannot be compared with it.
    return isinstance(ids, tuple) and not ids


class _Seen:
    """The ids of each operation and type that have come before."""

    def __init__(self) -> None:
        self._sets: dict[tuple[Change, IdType], SeenIds] = {}

    def of(self, change: Change, id_type: IdType) -> SeenIds:
        most = MOST_MEMBERS if change == "ADD" else None

        return self._sets.setdefault((change, id_type), SeenIds(most=most))

    async def release(self) -> None:
        for ids in self._sets.values():
            await release(ids)


async def _scan(
    asked: Sequence[MembershipOperation], streams: Sequence[Ids], seen: _Seen
) -> list[Operation]:
    scanned: list[Operation] = []
    room: int | None = None

    for part, (operation, ids) in enumerate(zip(asked, streams, strict=True)):
        other: Change = "REMOVE" if operation.change == "ADD" else "ADD"
        # Also ids that are read only once are in the sets when the next ones are sent.
        source = await prescan(
            ids,
            seen.of(operation.change, operation.id_type),
            excluding=seen.of(other, operation.id_type),
            first=room,
        )
        room = room_after(source)
        scanned.append(
            Operation(
                part=part,
                change=operation.change,
                id_type=operation.id_type,
                source=source,
            )
        )

    return scanned


async def write_membership(
    session: Session,
    jobs: AppJobs,
    cohort_id: str,
    spec: Membership,
    operations: Sequence[Operation],
    *,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
    by_operation: bool = False,
) -> MembershipReport:
    """Write operations in their order, in as few requests as they fit into."""
    parameters: dict[str, object] = {
        "cohort_id": cohort_id,
        "id_type": spec.id_type.name,
        "count_group": spec.count_group,
        "skip_invalid_ids": spec.skip_invalid_ids,
    }
    parts = [operation.part for operation in operations] if by_operation else []

    if by_operation:
        parameters["operations"] = [[op.change, op.id_type.name] for op in operations]

    async with open_writer(
        session, jobs, journal, "membership", parameters, on_skipped=on_skipped
    ) as writer:
        report = partial(_report, cohort_id, writer, parts)

        with writer.partial_errors(report):
            async with aclosing(_requests(operations)) as requests:
                async for entries in requests:
                    await _write(writer, cohort_id, spec, entries)

            await writer.finish()

        return report()


async def _requests(operations: Sequence[Operation]) -> AsyncGenerator[list[Entry]]:
    """Yield the entries of one request after another."""
    entries: list[Entry] = []

    for operation in operations:
        if entries and not operation.source.joins:
            yield entries
            entries = []

        async with aclosing(operation.source.batches()) as batches:
            async for batch in batches:
                entries.append(
                    Entry(
                        change=operation.change,
                        id_type=operation.id_type,
                        batch=batch,
                        part=operation.part,
                    )
                )

                if is_full([entry.batch for entry in entries]):
                    yield entries
                    entries = []

    if entries:
        yield entries


async def _write(
    writer: Writer, cohort_id: str, spec: Membership, entries: Sequence[Entry]
) -> None:
    left = [
        entry
        for entry in entries
        if not writer.is_written(entry.change.lower(), entry.batch, part=entry.part)
    ]

    if left:
        await writer.write(cohort_id, spec, left)


def _report(cohort_id: str, writer: Writer, parts: Sequence[int]) -> MembershipReport:
    written = writer.progress.written
    added = {batch.part for batch in written if batch.operation == "add"}
    removed = {batch.part for batch in written if batch.operation == "remove"}

    return MembershipReport(
        cohort_id=cohort_id,
        added=_result(writer, added),
        removed=_result(writer, removed),
        operations=tuple([_result(writer, {part}) for part in parts]),
    )


def _result(writer: Writer, parts: set[int]) -> OperationReport:
    def of(batches: Sequence[WrittenBatch]) -> list[WrittenBatch]:
        """Return the batches of these parts."""
        return [batch for batch in batches if batch.part in parts]

    written = of(writer.progress.written)

    return OperationReport(
        sent=sum(batch.count for batch in written),
        skipped_ids=[
            id_ for part in sorted(parts) for id_ in writer.skipped.get(part, ())
        ],
        batches=len(written),
        resumed=len(of(writer.earlier)),
    )
