"""An engine that makes the steps of an export, and sleeps in between."""

from __future__ import annotations

import attrs

from amplitude_cohorts_async.jobs import JobRecord, JobStore, Tick
from amplitude_cohorts_async.limits import UNLIMITED, Limits

from .stage import Stage

MOST_TICKS = 50


@attrs.define
class Engine:
    """
    What an engine does with one record: a step, a sleep, the next step.

    Each step is made by a client of its own, and sends one request at most.

    Attributes:
        pause: Seconds between two steps, if they are not due later.
        ticks: Of each step so far.
        sent: How many requests each step sent.
    """

    stage: Stage
    record: JobRecord
    limits: Limits = UNLIMITED
    pause: float = 0.0
    ticks: list[Tick] = attrs.field(factory=list[Tick])
    sent: list[int] = attrs.field(factory=list[int])

    async def step(self, store: JobStore | None = None) -> Tick:
        """Make one step, from the record's text."""
        sent = len(self.stage.emulator.log)
        began_at = self.stage.clock.now()
        record = JobRecord.from_json(self.record.to_json())

        async with self.stage.client(store, limits=self.limits) as client:
            tick = await client.tick(record)

        assert began_at == self.stage.clock.now()
        self.sent.append(len(self.stage.emulator.log) - sent)
        assert self.sent[-1] <= 1
        self.ticks.append(tick)
        self.record = tick.record

        return tick

    async def run(self, until_state: str = "") -> Tick:
        """Make steps until the file is there, or the export has come to a state."""
        for _ in range(MOST_TICKS):
            tick = await self.step()
            if tick.done or tick.record.state == until_state:
                return tick
            assert tick.due_in is not None
            self.stage.clock.advance(max(self.pause, tick.due_in))

        raise AssertionError("it never ends")


def engine(stage: Stage, name: str = "a.csv", *, key: str | None = "monday") -> Engine:
    """Make an engine for the cohort."""
    record = JobRecord.new("c1", stage.path(name), occurrence=key)

    return Engine(stage, record)
