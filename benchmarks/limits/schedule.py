"""
Two hundred exports at once: how long they take, and how often the server says no.

Run it to see the table; `--write` puts it into docs/limits.md. It runs in
virtual time, so the numbers are the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
from aiolimiter import AsyncLimiter

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from amplitude_cohorts_async._io.limits.local import LocalLimiter  # noqa: E402
from support.counting import Counting, every_counting, most_in_any  # noqa: E402
from support.virtual_loop import run_virtually  # noqa: E402

PAGE = ROOT / "docs" / "limits.md"
BEGIN, END = "<!-- schedule: begin -->\n", "<!-- schedule: end -->\n"

EXPORTS = 200
RATES = ((4, 60.0), (60, 600.0))
BEST = (EXPORTS / RATES[0][0] - 1) * RATES[0][1]
RETRY = 15.0

Slots = Callable[[], AbstractAsyncContextManager[object]]


def buckets(*limiters: AsyncLimiter) -> Slots:
    """Let a request through when each bucket has room, as their manual shows."""

    @asynccontextmanager
    async def slot() -> AsyncIterator[None]:
        for limiter in limiters:
            await limiter.acquire()
        yield

    return slot


def ours() -> Slots:
    """The default limiter."""
    limiter = LocalLimiter()
    return lambda: limiter.slot("export")


LIMITERS: dict[str, Callable[[], Slots]] = {
    "`AsyncLimiter(60, 600)` and `AsyncLimiter(4, 60)`": lambda: buckets(
        AsyncLimiter(60, 600), AsyncLimiter(4, 60)
    ),
    "`AsyncLimiter(4, 60)`": lambda: buckets(AsyncLimiter(4, 60)),
    "`AsyncLimiter(1, 15)`": lambda: buckets(AsyncLimiter(1, 15)),
    "**`LocalLimiter()`**": ours,
}


@attrs.define
class Course:
    """What a server saw."""

    stamps: list[float] = attrs.field(factory=list)
    admitted: list[float] = attrs.field(factory=list)

    @property
    def refused(self) -> int:
        """How often the server answered 429."""
        return len(self.stamps) - len(self.admitted)


def course(
    make: Callable[[], Slots], server: Sequence[Counting], jitter: float
) -> Course:
    """Ask for all exports at once; a refused one is tried again 15 s later."""
    seen, chance = Course(), random.Random(1)

    async def export(slot: Slots) -> None:
        while True:
            async with slot() as permit:
                await asyncio.sleep(0.25 + chance.uniform(0, jitter))
                now = asyncio.get_running_loop().time()
                seen.stamps.append(now)
                verdicts = [rate.admits(now) for rate in server]
                await asyncio.sleep(0.25)
                if all(verdicts):
                    seen.admitted.append(now)
                    return
                if permit is not None:
                    permit.throttled()
            await asyncio.sleep(RETRY)

    async def main() -> None:
        slot = make()
        async with asyncio.TaskGroup() as group:
            for _ in range(EXPORTS):
                group.create_task(export(slot))

    run_virtually(main(), grain=1e-6)
    return seen


def row(name: str, make: Callable[[], Slots]) -> str:
    """One line of the table, over all servers."""
    steady = [course(make, server, 0.0) for server in every_counting(RATES).values()]
    shaky = [course(make, server, 2.0) for server in every_counting(RATES).values()]

    last = max(max(run.admitted) for run in steady)
    cells = [
        name,
        f"{max(sorted(run.admitted)[3] for run in steady):.0f}",
        f"{max(sorted(run.admitted)[59] for run in steady):.0f}",
        f"{last:.0f}",
        f"{BEST / last:.1%}",
        f"{max(most_in_any(run.stamps, 60 - 1e-3) for run in steady)}",
        f"{sum(run.refused for run in steady)}",
        f"{sum(run.refused for run in shaky)}",
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The whole table, in Markdown."""
    head = [
        "| limiter | 4th (s) | 60th | 200th | of best | most in 60 s | 429s | jitter |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row(*limiter) for limiter in LIMITERS.items())]) + "\n"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")

    text = table()
    if not parser.parse_args().write:
        print(text, end="")
        return

    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
