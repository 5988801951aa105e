"""Makes a cohort equal to a set of ids, with as few changes as possible."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial

import attrs

from .._core.batching import LARGER_COHORTS, MOST_MEMBERS
from .._core.claims import Call, checked_on_unknown, checked_reuse
from .._core.ids import cohort_id_of
from .._core.job_rows import OnUnknown
from .._core.writes import Change, Membership, checked_share
from .._exports.app_jobs import AppJobs
from .._exports.claim import Delivery
from .._exports.requester import ExportRequester
from .._exports.spent_export import SpentExport, keep_token
from .._id_source import IdSource
from .._io.http.session import Session
from ..errors import CohortsError, InvalidInputError
from ..models import Cohort, IdType, SyncReport
from .batches import Source, room_after
from .compare import MemberIds, compare
from .id_stream import Ids, check_resumable, ids_of
from .membership import Operation, write_membership
from .writer import OnSkipped

_MEMBERS_AT_ONCE = 1_000


async def sync_membership(
    session: Session,
    jobs: AppJobs,
    cohort: str | Cohort,
    spec: Membership,
    ids: IdSource,
    *,
    exports: ExportRequester,
    reuse_within: float,
    on_unknown: OnUnknown,
    current: IdSource | None,
    dry_run: bool,
    max_removed: float,
    on_disk: str | os.PathLike[str] | None,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
) -> SyncReport:
    """Make a cohort's members equal to *ids*."""
    cohort_id = cohort_id_of(cohort)
    checked_share(max_removed)
    wanted = ids_of(ids, amplitude=spec.amplitude(spec.id_type))
    _check_journal(journal, wanted, current)
    call = Call(
        cohort_id=cohort_id,
        reuse_within=checked_reuse(reuse_within),
        on_unknown=checked_on_unknown(on_unknown),
    )
    members = _Members(call, current, exports, MemberIds(spec))

    async with members.delivered():
        return await _sync(
            session,
            jobs,
            spec,
            wanted,
            members,
            dry_run=dry_run,
            max_removed=max_removed,
            on_disk=on_disk,
            journal=journal,
            on_skipped=on_skipped,
        )


async def _sync(
    session: Session,
    jobs: AppJobs,
    spec: Membership,
    wanted: Ids,
    members: _Members,
    *,
    dry_run: bool,
    max_removed: float,
    on_disk: str | os.PathLike[str] | None,
    journal: str | os.PathLike[str] | None,
    on_skipped: OnSkipped | None,
) -> SyncReport:
    cohort_id = members.call.cohort_id

    try:
        diff = await compare(
            wanted.slices(),
            members.slices(),
            partial(_check_wanted, cohort_id, dry_run or max_removed == 1),
            folder=on_disk,
            on_disk=on_disk is not None,
        )
        report = SyncReport(
            cohort_id=cohort_id,
            add=diff.add,
            remove=diff.remove,
            kept=diff.kept,
            unnameable=members.reader.unnameable,
            remove_first=len(diff.add) + len(diff.remove) + diff.kept > MOST_MEMBERS,
        )

        if dry_run:
            return report

        report.check_removals(max_removed)
        applied = await write_membership(
            session,
            jobs,
            cohort_id,
            spec,
            _operations(report, spec.id_type),
            journal=journal,
            on_skipped=on_skipped,
        )
    except CohortsError as error:
        error.token = error.token or members.token
        raise
    except asyncio.CancelledError as error:
        if members.token is not None:
            keep_token(error, members.token)
        raise

    return attrs.evolve(report, applied=applied)


def _operations(report: SyncReport, id_type: IdType) -> list[Operation]:
    """
    Return what makes the members equal, in the order in which it is sent.

    Adding comes first as a rule, so that the cohort is never nearly empty.
    """
    changes: list[tuple[int, Change, Collection[str]]] = [
        (0, "ADD", report.add),
        (1, "REMOVE", report.remove),
    ]
    operations: list[Operation] = []
    first: int | None = None

    for part, change, ids in reversed(changes) if report.remove_first else changes:
        # Distinct and checked: the comparison made them so.
        source = Source(ids=ids_of(ids), first=first, size=len(ids))
        first = room_after(source)
        operations.append(
            Operation(part=part, change=change, id_type=id_type, source=source)
        )

    return operations


@attrs.define
class _Members:
    """
    The present members of a cohort, given or exported.

    They are read after the wanted ids, so that a mistake in those spends no export;
    `token` is of the export that was spent or taken up, if one was.
    """

    call: Call
    _current: IdSource | None
    _exports: ExportRequester
    reader: MemberIds
    token: str | None = None
    _delivery: Delivery | None = None
    _stack: AsyncExitStack = attrs.field(factory=AsyncExitStack)

    @asynccontextmanager
    async def delivered(self) -> AsyncGenerator[None]:
        """
        Record at the end that the export was used.

        Not when it was read: a sync that fails later goes on with the same members.
        """
        async with AsyncExitStack() as self._stack:
            yield

            if self._delivery is not None:
                await self._delivery.finished(None)

        if self._delivery is not None:
            self._delivery.answered()

    async def slices(self) -> AsyncGenerator[list[str]]:
        async with AsyncExitStack() as stack:
            if self._current is not None:
                slices = self.reader.of_source(self._current)
            else:
                export = await self._exported()
                members = await stack.enter_async_context(export.read_members())
                slices = self.reader.of_members(members.batches(_MEMBERS_AT_ONCE))

            await stack.enter_async_context(aclosing(slices))

            async for ids in slices:
                yield ids

    async def _exported(self) -> SpentExport:
        started = await self._exports.join_or_request(self.call)
        self._delivery = started.delivery
        self.token = started.export.token
        await self._stack.enter_async_context(started.delivery.held())

        return started.export


def _check_wanted(cohort_id: str, may_remove_all: bool, wanted: int) -> None:
    if wanted > MOST_MEMBERS:
        raise InvalidInputError(
            f"more than {MOST_MEMBERS:,} different ids are wanted, and a cohort holds "
            f"at most that many members; {LARGER_COHORTS}"
        )

    if not wanted and not may_remove_all:
        raise InvalidInputError(
            f"no ids are wanted, which would remove every member of cohort "
            f"{cohort_id}; pass max_removed=1.0 if that is meant"
        )


def _check_journal(
    journal: str | os.PathLike[str] | None, wanted: Ids, current: IdSource | None
) -> None:
    if journal is None:
        return

    if current is None:
        raise InvalidInputError(
            "the next run would find other members, so a journal could not be "
            "resumed; sync again instead, which does what remains, or pass current="
        )

    check_resumable(journal, wanted, ids_of(current))
