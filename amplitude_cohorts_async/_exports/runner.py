"""Goes on with exports that were left: what is spent comes to its target."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator

import attrs

from .._core.export_errors import ambiguous_export
from .._core.job_rows import DeliveryRow
from .._io.context import Context
from ..errors import CohortsError, InvalidInputError, StorageError
from ..models import ExportOutcome, JobRecord, Tick
from .app_jobs import AppJobs, KnownJob, for_delivery, to_of
from .ticker import Ticker

_INTERVAL = 5.0
"""Seconds between two looks at what is due, if nothing is due earlier."""

_AFTER_FAILURES = 300.0
"""Seconds until a delivery is tried again that an outage or a disk has stopped."""


@attrs.define(kw_only=True)
class JobRunner:
    """
    Delivers the open exports of one app to files of this host, and to buckets; it
    spends none.

    Any number of runners share the work: each step takes a delivery with a lease.
    """

    jobs: AppJobs
    ticker: Ticker
    context: Context
    _found: set[str] = attrs.field(factory=set[str], init=False)
    _told: set[str] = attrs.field(factory=set[str], init=False)
    _failures: Counter[str] = attrs.field(factory=Counter[str], init=False)
    _errors: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    _due_at: dict[str, float] = attrs.field(factory=dict[str, float], init=False)

    @property
    def found(self) -> int:
        """The deliveries and doubts that were found so far."""
        return len(self._found)

    async def outcomes(self, *, forever: bool) -> AsyncGenerator[ExportOutcome]:
        """
        Yield the outcome of each delivery that was left.

        Ends when nothing is left, unless it goes on *forever*. What fails is left to
        the next runner; one that goes on forever tries it again itself, some minutes
        later, if that may mend it.
        """
        clock = self.context.clock

        while True:
            next_look = clock.now() + _INTERVAL
            is_pending = False

            records = await self.jobs.records()
            self._found.update(*map(_open_ids, records))

            for known in records:
                if outcome := self._doubt(known):
                    yield outcome

                for delivery in known.due:
                    if delivery.id in self._told or to_of(delivery.target) is None:
                        continue

                    outcome = await self._go_on(known.record, delivery)
                    if outcome is not None:
                        yield outcome
                        if not forever:
                            self._told.add(delivery.id)
                        continue

                    is_pending = True
                    next_look = min(next_look, self._due_at[delivery.id])

            if not is_pending and not forever:
                return

            await clock.sleep(max(0.0, next_look - clock.now()))

    def _doubt(self, known: KnownJob) -> ExportOutcome | None:
        """Return the outcome of an export whose id is not known, once."""
        record = known.record

        if known.doubt is None or record.id in self._told:
            return None

        self._told.add(record.id)
        error = ambiguous_export(known.doubt, used_now=None)

        return ExportOutcome(cohort_id=record.cohort_id, error=error)

    async def _go_on(
        self, record: JobRecord, delivery: DeliveryRow
    ) -> ExportOutcome | None:
        """Make the next step, if it is due; return None if it was not the last."""
        now, cohort_id = self.context.clock.now(), record.cohort_id

        if now < self._due_at.get(delivery.id, now):
            return None

        try:
            tick = await self.ticker.go_on(for_delivery(record, delivery))
        except (InvalidInputError, StorageError) as error:
            # Its folder may come back, or room on the disk.
            self._due_at[delivery.id] = now + _AFTER_FAILURES
            return self._told_once(delivery, cohort_id, error)
        except CohortsError as error:
            self._told.add(delivery.id)
            return ExportOutcome(cohort_id=cohort_id, error=error)

        if tick is not None and tick.done:
            return ExportOutcome(cohort_id=cohort_id, saved=tick.saved)

        # Another runner has taken it; the next look shows whether it was delivered.
        due_in = _INTERVAL if tick is None or tick.due_in is None else tick.due_in
        self._due_at[delivery.id] = now + due_in

        return self._given_up(delivery, cohort_id, tick)

    def _told_once(
        self, delivery: DeliveryRow, cohort_id: str, error: CohortsError
    ) -> ExportOutcome | None:
        """Return the outcome of a delivery, unless it was told of the same error."""
        text = str(error)

        if self._errors.get(delivery.id) == text:
            return None

        self._errors[delivery.id] = text
        return ExportOutcome(cohort_id=cohort_id, error=error)

    def _given_up(
        self, delivery: DeliveryRow, cohort_id: str, tick: Tick | None
    ) -> ExportOutcome | None:
        """Return the outcome of a delivery whose steps have failed too often."""
        if tick is None or tick.last_error is None:
            del self._failures[delivery.id]
            return None

        self._failures[delivery.id] += 1

        if self._failures[delivery.id] < self.context.retrying.attempts:
            return None

        del self._failures[delivery.id]
        self._due_at[delivery.id] = self.context.clock.now() + _AFTER_FAILURES

        return ExportOutcome(cohort_id=cohort_id, error=tick.last_error)


def _open_ids(known: KnownJob) -> list[str]:
    """Return the ids of what there is an outcome of."""
    doubts = [known.record.id] if known.doubt else []

    return doubts + [each.id for each in known.due if to_of(each.target) is not None]
