"""Apps of one process that share what keeps their limits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime

from amplitude_cohorts_async._io.fairness import FairQueue
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
    """
    Notes how many turns others had while an app waited for one of its own.

    An app waits from the moment it is in a queue. Before that, a busy machine may let a
    thread go on that works for others.
    """

    def __init__(self, patch: Callable[[object, str, object], None]) -> None:
        """Note it from now on, at files and at servers."""
        self.waits: dict[str, list[int]] = defaultdict(list)
        self._turns = Counter[str]()
        begun: dict[int, tuple[str, int]] = {}
        put, get = FairQueue.put, FairQueue.get

        def noted_put(
            queue: FairQueue[object], app: str, item: object, *, urgent: bool = False
        ) -> None:
            begun[id(item)] = app, self._of_others(app)
            put(queue, app, item, urgent=urgent)

        def noted_get(queue: FairQueue[object]) -> object:
            item = get(queue)
            self._pass(*begun.pop(id(item)))
            return item

        patch(FairQueue, "put", noted_put)
        patch(FairQueue, "get", noted_get)

    def _of_others(self, app: str) -> int:
        return self._turns.total() - self._turns[app]

    def _pass(self, app: str, begun: int) -> None:
        self.waits[app].append(self._of_others(app) - begun)
        self._turns[app] += 1
