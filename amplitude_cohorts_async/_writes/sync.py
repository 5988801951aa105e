"""Makes a cohort equal to a set of ids, with as few changes as possible."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import TypeAlias

import attrs

from .._core.batching import MOST_MEMBERS
from .._core.ids import checked_id
from .._core.writes import Membership, checked_share
from .._exports.job import ExportJob
from .._io.http.session import Session
from ..errors import CohortsError, InvalidInputError
from ..models import MembershipDiff, SyncReport
from .batches import Source, release
from .compare import MemberIds, compare, compare_on_disk, in_lists
from .id_stream import Ids, IdSource, check_resumable, ids_of
from .membership import write_membership
from .writer import OnSkipped

RequestExport: TypeAlias = Callable[[str], Awaitable[ExportJob]]
"""Requests the export of a cohort; spends one of the monthly quota."""

_MEMBERS_AT_ONCE = 1_000


@attrs.frozen(kw_only=True)
class Sync:
    """
    The options of a sync; checked when made.

    Attributes:
        max_removed: The share of the members that may be removed, 0 to 1.
        on_disk: A folder to compare in, for flat memory; None compares in memory.
    """

    membership: Membership
    dry_run: bool = False
    max_removed: float = 0.5
    on_disk: str | os.PathLike[str] | None = None

    def __attrs_post_init__(self) -> None:
        checked_share(self.max_removed)


async def sync_membership(
    session: Session,
    cohort_id: str,
    ids: IdSource,
    sync: Sync,
    *,
    request_export: RequestExport,
    current: IdSource | None = None,
    journal: str | os.PathLike[str] | None = None,
    on_skipped: OnSkipped | None = None,
) -> SyncReport:
    """
    Make a cohort's members equal to *ids*.

    Args:
        current: The present members: ids, or a file that an export wrote; None
            exports the cohort.
    """
    checked_id(cohort_id, "cohort id")
    wanted = ids_of(ids)
    _check_journal(journal, wanted, current)
    comparison = _Comparison(cohort_id, sync, wanted, current, request_export)

    try:
        report = await comparison.run()

        if sync.dry_run:
            return report

        report.check_removals(sync.max_removed)
        applied = await write_membership(
            session,
            cohort_id,
            sync.membership,
            Source(ids=ids_of(report.add)),
            Source(ids=ids_of(report.remove)),
            journal=journal,
            on_skipped=on_skipped,
            remove_first=report.remove_first,
        )
    except CohortsError as error:
        error.token = error.token or comparison.token
        raise

    return attrs.evolve(report, applied=applied)


class _Comparison:
    """
    Reads the wanted ids first, so that a mistake in them spends no export.

    Attributes:
        token: Of the export that was spent, if one was.
    """

    def __init__(
        self,
        cohort_id: str,
        sync: Sync,
        wanted: Ids,
        current: IdSource | None,
        request_export: RequestExport,
    ) -> None:
        self.token: str | None = None
        self._cohort_id = cohort_id
        self._sync = sync
        self._wanted = wanted
        self._current = current
        self._request_export = request_export
        self._reader = MemberIds(sync.membership)

    async def run(self) -> SyncReport:
        diff = await self._diff()
        most = len(diff.add) + len(diff.remove) + diff.kept

        return SyncReport(
            cohort_id=self._cohort_id,
            add=diff.add,
            remove=diff.remove,
            kept=diff.kept,
            unnameable=self._reader.unnameable,
            remove_first=most > MOST_MEMBERS,
        )

    async def _diff(self) -> MembershipDiff:
        wanted, current = self._wanted.slices(), self._current_ids()

        if self._sync.on_disk is not None:
            return await compare_on_disk(
                wanted, current, self._sync.on_disk, self._check
            )

        compared = await compare(wanted, current, self._check)
        diff = await in_lists(compared)
        await release(compared)

        return diff

    def _check(self, wanted: int) -> None:
        if wanted > MOST_MEMBERS:
            raise InvalidInputError(
                f"more than {MOST_MEMBERS:,} different ids are wanted, and a cohort holds "
                f"at most that many members; split them into cohorts"
            )

        if not wanted and not self._sync.dry_run and self._sync.max_removed < 1:
            raise InvalidInputError(
                f"no ids are wanted, which would remove every member of cohort "
                f"{self._cohort_id}; pass max_removed=1.0 if that is meant"
            )

    async def _current_ids(self) -> AsyncGenerator[list[str]]:
        async with AsyncExitStack() as stack:
            if self._current is not None:
                slices = self._reader.of_source(self._current)
            else:
                job = await self._request_export(self._cohort_id)
                self.token = job.token
                members = await stack.enter_async_context(job.members())
                slices = self._reader.of_members(members.batches(_MEMBERS_AT_ONCE))

            await stack.enter_async_context(aclosing(slices))

            async for ids in slices:
                yield ids


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
