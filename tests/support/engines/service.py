"""
The emulator in a process of its own, which tells at any time what it saw.

Run as a module this is that process.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import attrs

from amplitude_cohorts_async.testing import CohortsEmulator, Quotas

from ..canary import API_KEY, SECRET_KEY
from ..processes import TESTS
from ..scaled_emulator import Account, account

COHORT = "c1"
MEMBERS = 3_000
JOB_SECONDS = 1.0
SLOW_COHORT = "slow"
SLOW_JOB_SECONDS = 8.0


@attrs.frozen
class Service:
    """A running emulator with two cohorts, whose limits are the documented ones."""

    base_url: str
    _words: IO[str]
    _answers: IO[str]

    def account(self) -> Account:
        """Return what it saw until now."""
        return Account(**self._asked("account"))

    def polls(self) -> int:
        """Return how often a job's status was asked for."""
        return int(self._asked("polls"))

    def _asked(self, word: str) -> Any:
        self._words.write(f"{word}\n")
        self._words.flush()

        return json.loads(self._answers.readline())

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
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout

    with process:
        try:
            url = json.loads(process.stdout.readline())
            yield Service(url, process.stdin, process.stdout)
        finally:
            process.stdin.close()


async def serve() -> None:
    """Say where it is, and answer until stdin ends."""
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
        _tell(emulator.base_url)
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if word == "polls":
                _tell(emulator.requests("status"))
            else:
                _tell(attrs.asdict(account(emulator)))


def _tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve())
