"""Finds exports that were saved before, and need not be spent again."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import anyio
import attrs

from .._core.job_rows import DeliveryRow, Wanted
from .._core.tokens import ExportRef, from_token, has_file, is_unchanged
from .._io.cancellation import in_thread
from .._io.context import Clock
from .._io.progress import Progress
from .._io.sinks.destination import Destination
from .._io.sinks.saved_file import from_record
from .._io.sinks.saved_object import SavedObject
from .._io.sinks.target import Target
from ..errors import ExportError
from ..models import Cohort, SavedExport
from .app_jobs import AppJobs, target_name
from .spent_export import SpentExport

_logger = logging.getLogger(__name__)


@attrs.frozen
class SavedExports:
    """
    The exports that were saved before.

    Attributes:
        spent: Returns an export that was spent, by its reference.
        thread: Where files are compared.
    """

    jobs: AppJobs
    clock: Clock
    spent: Callable[[ExportRef], SpentExport]
    thread: anyio.CapacityLimiter

    async def unchanged(
        self,
        earlier: SavedExport | str,
        target: Target,
        wanted: Wanted,
        *,
        cohort: Cohort | None,
        progress: Progress | None,
    ) -> SavedExport | None:
        """
        Return an earlier export at a target, or None if a new one is needed.

        Its file is downloaded again from the earlier job, which spends nothing, if
        it is gone or was changed, or only a token is given.

        Args:
            cohort: The cohort as listed now; None when it is not listed.
        """
        token = earlier if isinstance(earlier, str) else earlier.token
        ref = from_token(token)

        if (
            cohort is None
            or (ref.cohort_id, ref.properties) != (cohort.id, wanted)
            or not is_unchanged(cohort, ref)
        ):
            return None

        if isinstance(earlier, SavedExport):
            saved = await self.intact(earlier, target)
            if saved is not None:
                return saved

        if has_file(ref, now=self.clock.utcnow()):
            with suppress(ExportError):
                saved = await self._again(ref, target, progress)
                return attrs.evolve(saved, unchanged=True)

        return None

    async def answer(self, row: DeliveryRow, target: Target) -> SavedExport | None:
        """
        Return the record of a delivery, or None if its file has to come again.

        So it is if the file is gone, or was changed by somebody else. The file of
        another cohort that was brought there later is left alone.
        """
        saved = saved_of(row)

        if saved is None:
            return None

        intact = await self.intact(saved, target)

        if intact is None and await self._is_taken(target):
            cohort_id = str(ref_of(row).cohort_id)
            return saved if await self.jobs.was_replaced(row, cohort_id) else None

        return intact

    async def intact(self, earlier: SavedExport, target: Target) -> SavedExport | None:
        """Return an earlier export, if its file is still at a target, unchanged."""

        if target.destination is not None:
            is_same = await _is_same(earlier, target.destination)
            return _unchanged(earlier, target) if is_same else None

        def is_intact() -> bool:
            """Whether the file is at the target, as it was saved."""
            is_here = Path(os.path.realpath(earlier.path)) == target.resolved

            return is_here and earlier.file.is_intact()

        if not await in_thread(is_intact, self.thread):
            return None

        return _unchanged(earlier, target)

    async def _is_taken(self, target: Target) -> bool:
        """Whether something is at a target."""
        if target.destination is not None:
            return await _tag_of(target.destination) is not None

        return await in_thread(target.resolved.exists, self.thread)

    async def unchanged_since_saved(
        self,
        cohort_id: str,
        target: Target,
        wanted: Wanted,
        read_list: Callable[[], Awaitable[Mapping[str, Cohort]]],
    ) -> SavedExport | None:
        """Return the last export saved at a target, or None if a new one is needed."""
        row = await self.jobs.saved_before(
            cohort_id, target_name(target), target.format.suffix
        )
        earlier = saved_of(row)

        if earlier is None:
            return None

        return await self.unchanged(
            earlier,
            target,
            wanted,
            cohort=(await read_list()).get(cohort_id),
            progress=None,
        )

    async def _again(
        self, ref: ExportRef, target: Target, progress: Progress | None
    ) -> SavedExport:
        export = self.spent(ref)
        delivery = await export.deliver(target_name(target), target.format.suffix)
        saved = await export.save(target, delivery, progress=progress)
        delivery.answered()

        return saved


def _unchanged(earlier: SavedExport, target: Target) -> SavedExport:
    return attrs.evolve(
        earlier, path=target.path, unchanged=True, downloaded=0, links=0
    )


async def _is_same(earlier: SavedExport, destination: Destination) -> bool:
    """Whether an object is still the one that was saved, as its tag shows."""
    file = earlier.file

    return (
        earlier.location == destination.location
        and isinstance(file, SavedObject)
        and file.tag is not None
        and await _tag_of(destination) == file.tag
    )


async def _tag_of(destination: Destination) -> str | None:
    # What cannot be seen is brought again, from the same export: if its store is
    # away, that fails with the reason.
    try:
        return await destination.tag()
    except Exception:  # noqa: BLE001 - of any library
        _logger.warning("what is at %s is not known", destination.location)
        return None


def ref_of(delivery: DeliveryRow) -> ExportRef:
    """Return the export of a delivery that has a record."""
    return from_token(str((delivery.saved or {})["token"]))


def saved_of(delivery: DeliveryRow | None) -> SavedExport | None:
    """Return the record of a delivery's file, if there is a readable one."""
    if delivery is None or delivery.saved is None:
        return None

    # A record that another release wrote may not be readable: then the file is
    # downloaded again.
    with suppress(KeyError, TypeError, ValueError):
        return from_record(delivery.saved)

    return None
