"""A process that holds places of a file's limiter, to be frozen or killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import attrs

from amplitude_cohorts_async.errors import LimiterUnavailableError
from amplitude_cohorts_async.limiters import SqliteLimiter
from amplitude_cohorts_async.limits import Limits

TESTS = Path(__file__).parents[1]
ALONE = Limits(in_flight=1, exports=(), polls=None, release_delay=0.0)


@attrs.frozen
class Holder:
    """A process that asks for the only place in flight, and tells what comes of it."""

    process: asyncio.subprocess.Process

    async def says(self) -> str:
        """Its next word: "asks", "holds", or the name of an error."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()


@asynccontextmanager
async def holder(path: Path, *, lease: float) -> AsyncGenerator[Holder]:
    """Have such a process meanwhile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.holder",
        str(path),
        str(lease),
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        stdout=asyncio.subprocess.PIPE,
    )

    try:
        yield Holder(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def main(path: str, lease: str) -> None:
    """Hold the place for as long as one may."""
    limiter = SqliteLimiter(path, app="app", limits=ALONE, lease=float(lease))

    async with aclosing(limiter):
        print("asks", flush=True)  # noqa: T201 - to the test
        try:
            async with limiter.slot("file"):
                print("holds", flush=True)  # noqa: T201
                await asyncio.sleep(60)
        except LimiterUnavailableError as error:
            name = type(error).__name__
            print(name, error.may_have_happened, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
