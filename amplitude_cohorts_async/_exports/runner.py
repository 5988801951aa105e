"""Goes on with exports that were left: what is spent comes to its target."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import anyio.to_thread
import attrs

from .._core.export_errors import ambiguous_export
from .._core.job_rows import DeliveryRow
from .._io.context import Clock
from .._io.sinks.target import checked_target
from ..errors import CohortsError
from ..models import ExportOutcome, JobRecord
from .app_jobs import AppJobs, path_of
from .spent_export import SpentExport

_INTERVAL = 5.0
"""Seconds between two looks at what is due, and at a job that is not done."""


@attrs.frozen(kw_only=True)
class JobRunner:
    """
    Delivers the open exports of one app to files of this host; it spends none.

    Any number of runners share the work: each takes a delivery with a lease.
    """

    jobs: AppJobs
    clock: Clock
    resume: Callable[[str], SpentExport]

    async def outcomes(self, *, forever: bool) -> AsyncGenerator[ExportOutcome]:
        """
        Yield the outcome of each delivery that was left.

        Ends when nothing is left, unless it goes on *forever*. What fails is left to
        the next runner.
        """
        told: set[str] = set()

        while True:
            is_pending = False

            for known in await self.jobs.records():
                if known.doubt is not None and known.record.id not in told:
                    told.add(known.record.id)
                    error = ambiguous_export(known.doubt, used_now=None)
                    yield ExportOutcome(cohort_id=known.record.cohort_id, error=error)

                for delivery in known.due:
                    if delivery.id in told or path_of(delivery.target) is None:
                        continue

                    outcome = await self._deliver(known.record, delivery)
                    if outcome is None:
                        is_pending = True
                        continue

                    told.add(delivery.id)
                    yield outcome

            if not is_pending and not forever:
                return

            await self.clock.sleep(_INTERVAL)

    async def _deliver(
        self, record: JobRecord, row: DeliveryRow
    ) -> ExportOutcome | None:
        """Deliver an export; return None if it is not done yet."""
        cohort_id = record.cohort_id

        try:
            spent = self.resume(str(record.token))
            if not (await spent.poll()).done:
                return None

            path = path_of(row.target) or ""
            target = await anyio.to_thread.run_sync(checked_target, path, row.format)
            # Last of all: a delivery that was taken is held from then on.
            delivery = await self.jobs.take(record, row)
            if delivery is None:
                # Another runner has taken it; the next look shows whether it was delivered.
                return None

            saved = await spent.save(target, delivery)
        except CohortsError as error:
            return ExportOutcome(cohort_id=cohort_id, error=error)

        delivery.answered()
        return ExportOutcome(cohort_id=cohort_id, saved=saved)
