"""
The emulator in a process of its own, on a clock that runs faster than the wall's.

Run as a module this is that process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import attrs

from amplitude_cohorts_async.testing import CohortsEmulator, Quotas

from .canary import API_KEY, SECRET_KEY
from .processes import TESTS, spoken_to
from .soaking import add_cohorts, misbehave

_START = datetime(2026, 6, 15, 12, tzinfo=UTC)


@attrs.frozen
class ScaledClock:
    """
    The machine's clock, with each second passing as *scale* of them.

    Two processes with the same *zero* have the same time, as all processes of a
    machine share its monotonic clock.
    """

    scale: float
    zero: float = attrs.field(factory=time.monotonic)

    def now(self) -> float:
        """Return the seconds since *zero*, scaled."""
        return (time.monotonic() - self.zero) * self.scale

    def utcnow(self) -> datetime:
        """Return a date and time that moves with it."""
        return _START + timedelta(seconds=self.now())

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds* of this clock."""
        await asyncio.sleep(max(0.0, seconds) / self.scale)


@attrs.frozen(kw_only=True)
class Account:
    """
    What the service saw.

    Attributes:
        spent: The exports it counted.

        violations: How often a request of ours broke a rule, by the rule.

        requests: All requests.

        spoiled: Those whose answer a fault made another than 2xx or a redirect.
    """

    spent: int
    violations: dict[str, int]
    requests: int
    spoiled: int


def account(emulator: CohortsEmulator) -> Account:
    """Return what an emulator saw until now."""
    log = emulator.log
    return Account(
        spent=emulator.spent,
        violations=Counter(each.rule for each in emulator.violations),
        requests=len(log),
        spoiled=sum(not 200 <= (record.status or 0) < 400 for record in log),
    )


@attrs.define(eq=False)
class Service:
    """A running emulator; its account is there once it has ended."""

    base_url: str
    account: Account | None = None


@contextmanager
def scaled_emulator(
    clock: ScaledClock, *, cohorts: int, share: float, seed: int
) -> Iterator[Service]:
    """Run one meanwhile, with so many cohorts and a share of faults."""
    words = [repr(clock.scale), repr(clock.zero), str(cohorts), repr(share), str(seed)]
    env = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}

    with spoken_to("-m", "support.scaled_emulator", *words, env=env) as (asked, told):
        service = Service(json.loads(told.readline()))
        try:
            yield service
        finally:
            asked.close()
            service.account = Account(**json.loads(told.read()))


async def serve(words: list[str]) -> None:
    """Run until stdin ends; say where it is, and in the end what it saw."""
    scale, zero, cohorts, share, seed = words
    emulator = CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=ScaledClock(float(scale), float(zero)),
        quotas=Quotas(month=None),
    )
    add_cohorts(emulator, int(cohorts))
    misbehave(emulator, share=float(share), seed=int(seed))

    async with emulator:
        _tell(emulator.base_url)
        await asyncio.to_thread(sys.stdin.read)
        _tell(attrs.asdict(account(emulator)))


def _tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
