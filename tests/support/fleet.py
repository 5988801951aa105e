"""
A fleet of processes behind one shared limiter, and a server that watches them.

Run as a module this is one process of the fleet.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import attrs

from amplitude_cohorts_async.errors import LimiterUnavailableError
from amplitude_cohorts_async.limiters import Limiter, SqliteLimiter
from amplitude_cohorts_async.limits import Limits, Rate

from .counting import most_in_any
from .ports import LOOPBACK
from .processes import start_module

# The documented limits, a minute being a second.
LIMITS = Limits(
    exports=Rate(4, per=1.0), clock_margin=0.02, release_delay=0.2, polls=None
)
LEASE = 2.0
_NEW = (
    b"the store is new or has lost its data; waiting\n",
    b"the limiter's file was replaced; waiting\n",
)
_NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)


@attrs.define(eq=False)
class Watcher:
    """
    A server that stamps what comes, and works on when its client has died.

    Attributes:
        exports: When export requests came, on the watcher's own clock.

        most_in_flight: The most requests it worked on at once.

        idle: Whether it works on none.

        export: Set by each export request.
    """

    port: int = 0
    exports: list[float] = attrs.field(factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    idle: asyncio.Event = attrs.field(factory=asyncio.Event)
    export: asyncio.Event = attrs.field(factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watcher]:
        """Serve meanwhile."""
        self.idle.set()
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]

        async with server:
            yield self
            await self.idle.wait()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # A client that gave up right after connecting has sent nothing.
        if line := await reader.readline():
            kind, seconds = line.split()
            await self._work(kind, float(seconds))

        with suppress(ConnectionError):
            writer.write(b"done\n")
            writer.close()
            await writer.wait_closed()

    async def _work(self, kind: bytes, seconds: float) -> None:
        if kind == b"export":
            self.exports.append(asyncio.get_running_loop().time())
            self.export.set()
        self.idle.clear()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

        await asyncio.sleep(seconds)
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    async def saw(self, exports: int) -> None:
        """Wait until so many export requests have come."""
        while len(self.exports) < exports:
            self.export.clear()
            await self.export.wait()

    @property
    def most_in_a_window(self) -> int:
        """The most exports in any second."""
        return most_in_any(self.exports, LIMITS.exports[0].per - 1e-9)

    @property
    def per_second(self) -> float:
        """Exports a second, from the first to the last."""
        first, *_, last = self.exports
        return (len(self.exports) - 1) / (last - first)


@attrs.frozen
class Report:
    """
    What one process of the fleet tells at its end.

    Attributes:
        calls: How often a caller asked for a place.

        given_up: How often it gave up.

        held: Seconds an export held its place, on average.

        late: Seconds the machine added to a sleep and an answer of what they share.
    """

    calls: int
    given_up: int
    held: float
    late: float


@attrs.define(eq=False)
class _Callers:
    limiter: Limiter
    calls: int = 0
    given_up: int = 0
    held: list[float] = attrs.field(factory=list)
    late: list[float] = attrs.field(factory=list)
    sending: set[asyncio.Task[None] | None] = attrs.field(factory=set)


@attrs.frozen(kw_only=True)
class Worker:
    """
    What one process of the fleet does.

    Attributes:
        url: What it shares with the others: a file as sqlite:///path, or a store.

        least: Seconds the fastest request takes.

        most: Seconds the slowest one takes.

        cancels: Whether callers give up at random.

        skew: Seconds its wall clock is ahead.
    """

    url: str
    port: int
    seconds: float
    least: float = 0.02
    most: float = 0.06
    cancels: bool = False
    skew: float = 0.0

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process."""
        return await start_module("support.fleet", *attrs.astuple(self))

    async def work(self) -> Report:
        """Send requests until the time is over; return what came of them."""
        limiter = shared_limiter(self.url, app="fleet")
        callers = _Callers(limiter)
        # A new store is waited out first, and one that is away.
        while not limiter.statistics()["started"]:
            with suppress(LimiterUnavailableError):
                async with limiter.slot("other"):
                    pass
        tasks = [
            asyncio.create_task(self._call(callers, kind))
            for kind in ("export",) * 6 + ("poll",) * 2
        ]
        timing = asyncio.create_task(self._time_machine(callers))
        await asyncio.sleep(self.seconds)
        # What the server works on has to end well: it would work on for longer
        # than a place stays taken.
        while callers.sending and not self.cancels:
            for task in set(tasks) - callers.sending:
                task.cancel()
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not timing.done():
            # Before Python 3.12 redis-py may swallow a cancellation.
            timing.cancel()
            await asyncio.wait([timing], timeout=0.1)
        await limiter.aclose()
        held, late = _mean(callers.held), _mean(callers.late)
        return Report(callers.calls, callers.given_up, held, late)

    async def _call(self, callers: _Callers, kind: str) -> None:
        patience = 0.5 if self.cancels else None
        while True:
            callers.calls += 1
            try:
                async with asyncio.timeout(patience and random.uniform(0, patience)):
                    await self._request(callers, kind)
            except TimeoutError:
                callers.given_up += 1
            except LimiterUnavailableError:
                await asyncio.sleep(0.1)
            # Exports wait for windows anyway; polls come now and then.
            await asyncio.sleep(0.01 if kind == "export" else 0.05)

    async def _time_machine(self, callers: _Callers) -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.05)
            with suppress(LimiterUnavailableError):
                await callers.limiter.counter.add("late", 1, until=_NEXT_MONTH)
            callers.late.append(time.perf_counter() - begin - 0.05)

    async def _request(self, callers: _Callers, kind: str) -> None:
        seconds = random.uniform(self.least, self.most)
        async with callers.limiter.slot(kind):
            begin = time.perf_counter()
            callers.sending.add(asyncio.current_task())
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            try:
                writer.write(f"{kind} {seconds}\n".encode())
                await reader.readline()
                if kind == "export":
                    callers.held.append(time.perf_counter() - begin)
            finally:
                writer.close()
                callers.sending.discard(asyncio.current_task())


@asynccontextmanager
async def fleet(
    worker: Worker, *, size: int = 4
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Have so many processes at work, their clocks 300 ms apart; end them all."""
    processes = [
        await attrs.evolve(worker, skew=0.3 * number).start() for number in range(size)
    ]

    try:
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def finish(processes: list[asyncio.subprocess.Process]) -> list[Report]:
    """Await the end of all that live; return what they tell."""
    reports: list[Report] = []

    for process in processes:
        told, complaints = await process.communicate()
        if process.returncode != -9:
            for words in _NEW:
                complaints = complaints.replace(words, b"")
            assert b"" == complaints
            reports.append(Report(**json.loads(told)))

    return reports


def shared_limiter(url: str, *, app: str) -> Limiter:
    """Make a limiter that others share, on a file or a store."""
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        return SqliteLimiter(path, app=app, limits=LIMITS, lease=LEASE)

    if url.startswith("redis://"):
        from amplitude_cohorts_async.contrib.redis import (  # noqa: PLC0415
            RedisLimiter,
        )

        return RedisLimiter.from_url(url, app=app, limits=LIMITS, lease=LEASE)

    from amplitude_cohorts_async.contrib.postgres import (  # noqa: PLC0415
        PostgresLimiter,
    )

    return PostgresLimiter.from_url(url, app=app, limits=LIMITS, lease=LEASE)


def _mean(seconds: list[float]) -> float:
    return sum(seconds) / max(1, len(seconds))


def main(words: list[str]) -> None:
    """Be one process of the fleet."""
    url, port, seconds, least, most, cancels, skew = words
    real = time.time
    time.time = lambda: real() + float(skew)
    worker = Worker(
        url=url,
        port=int(port),
        seconds=float(seconds),
        least=float(least),
        most=float(most),
        cancels=cancels == "True",
    )
    report = asyncio.run(worker.work())
    sys.stdout.write(json.dumps(attrs.asdict(report)))


if __name__ == "__main__":
    main(sys.argv[1:])
