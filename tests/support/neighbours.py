"""Apps of one process that share what keeps their limits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from amplitude_cohorts_async._io.sqlite import SharedDatabase
from amplitude_cohorts_async._io.turns import Turns
from amplitude_cohorts_async.jobs import JobStore
from amplitude_cohorts_async.limiters import Kind, Limiter

NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)


def app(number: int) -> str:
    """Name an app."""
    return f"app{number:05}"


async def request(limiter: Limiter, kind: Kind = "export") -> None:
    """Hold a slot for a moment."""
    async with limiter.slot(kind):
        pass


def add(rows: MutableMapping[str, str], _now: float) -> None:
    """Count."""
    rows["count"] = str(int(rows.get("count", "0")) + 1)


async def use(limiter: Limiter, jobs: JobStore, name: str) -> None:
    """Ask of the limits and of the job store all that one export asks."""
    await request(limiter)
    await request(limiter, "poll")
    await limiter.counter.add("month", 1, until=NEXT_MONTH)
    for _ in range(2):
        await jobs.transact(name, "cohort:1", add)
    await jobs.groups(name)


class Turnstile:
    """Notes how many turns others had while an app waited for one of its own."""

    def __init__(self, patch: Callable[[object, str, object], None]) -> None:
        """Note it from now on, at files and at servers."""
        self.waits: dict[str, list[int]] = defaultdict(list)
        self._turns = Counter[str]()
        turn, run = Turns.turn, SharedDatabase.run

        @asynccontextmanager
        async def noted_turn(
            turns: Turns, app: str, *, urgent: bool = False
        ) -> AsyncGenerator[None]:
            begun = self._of_others(app)
            async with turn(turns, app, urgent=urgent):
                self._pass(app, begun)
                yield

        async def noted_run(
            base: SharedDatabase, work: Any, app: str, *, urgent: bool = False
        ) -> object:
            begun = self._of_others(app)

            def noted_work(connection: object) -> object:
                self._pass(app, begun)
                return work(connection)

            return await run(base, noted_work, app, urgent=urgent)

        patch(Turns, "turn", noted_turn)
        patch(SharedDatabase, "run", noted_run)

    def _of_others(self, app: str) -> int:
        return self._turns.total() - self._turns[app]

    def _pass(self, app: str, begun: int) -> None:
        self.waits[app].append(self._of_others(app) - begun)
        self._turns[app] += 1
