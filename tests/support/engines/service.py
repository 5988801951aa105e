"""The emulator in a process of its own, which tells at any time what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import attrs

from amplitude_cohorts_async.testing import CohortsEmulator, Quotas
from amplitude_cohorts_async.testing.faults import Step

from ..canary import API_KEY, SECRET_KEY
from ..scaled_emulator import Account, account
from .forking import end, forked, pipe

COHORT = "c1"
MEMBERS = 3_000
JOB_SECONDS = 1.0
SLOW_COHORT = "slow"
SLOW_JOB_SECONDS = 8.0


@attrs.frozen
class Service:
    """A running emulator with two cohorts, whose limits are the documented ones."""

    base_url: str
    _words: Connection

    def account(self) -> Account:
        """Return what it saw until now."""
        return Account(**self._asked("account"))

    def requests(self, step: Step) -> int:
        """Return how many requests of a step there were."""
        return int(self._asked(step))

    def polls(self) -> int:
        """Return how often a job's status was asked for."""
        return self.requests("status")

    def _asked(self, word: str) -> Any:
        self._words.send(word)

        return self._words.recv()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point a client to it."""
        return {
            "AMPLITUDE_API_KEY": API_KEY,
            "AMPLITUDE_SECRET_KEY": SECRET_KEY,
            "AMPLITUDE_BASE_URL": self.base_url,
        }


@contextmanager
def running_service() -> Iterator[Service]:
    """Run one meanwhile; it ends with this process, even if that is killed."""
    ours, theirs = pipe()
    process = forked(_serve, theirs, environment={})
    theirs.close()

    try:
        yield Service(ours.recv(), ours)
    finally:
        ours.close()
        end(process)


def _serve(words: Connection) -> None:
    asyncio.run(_answer(words))


async def _answer(words: Connection) -> None:
    """Say where it is, and answer until nobody can ask."""
    emulator = CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        quotas=Quotas(month=None),
        job_seconds=JOB_SECONDS,
    )
    members = [f"user{n}" for n in range(MEMBERS)]
    emulator.add_cohort(COHORT, members=members)
    emulator.add_cohort(SLOW_COHORT, members=members, job_seconds=SLOW_JOB_SECONDS)

    async with emulator:
        words.send(emulator.base_url)
        with suppress(EOFError):
            while word := await asyncio.to_thread(words.recv):
                if word == "account":
                    words.send(attrs.asdict(account(emulator)))
                else:
                    words.send(emulator.requests(word))
