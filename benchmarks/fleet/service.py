"""
The service of a rehearsal: the emulator in a process of its own, on a faster clock.

Run as a module this is that process. It keeps the documented limits, in its own time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

import attrs

from amplitude_cohorts_async.testing import CohortsEmulator, Quotas
from support.canary import API_KEY, SECRET_KEY
from support.processes import spoken_to
from support.scaled_emulator import ScaledClock

JOB_SECONDS = 30.0
"""What a job takes; the vendor does not say, and others have seen 30 to 60 seconds."""

MEMBERS = 2_000
# There is a month's quota, so it is looked at, and it suffices.
_MONTH = 1_000_000


def members_of(cohort_id: str) -> list[str]:
    """Return the members of a cohort, which no other has."""
    return [f"{cohort_id}-user{number}" for number in range(MEMBERS)]


@attrs.frozen(kw_only=True)
class Account:
    """
    What the service saw during a run.

    Attributes:
        spent: The exports it counted.
        requests: All requests of the API.
        refused: Those that it answered with 429.
        violations: How often a rule was broken, by the rule.
        started: When each export was requested, by cohort, on this machine's
            monotonic clock.
    """

    spent: int
    requests: int
    refused: int
    violations: Mapping[str, int]
    started: Mapping[str, float]


@attrs.frozen
class Service:
    """A running emulator."""

    base_url: str
    _words: IO[str]
    _answers: IO[str]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point a client to it."""
        return {
            "AMPLITUDE_API_KEY": API_KEY,
            "AMPLITUDE_SECRET_KEY": SECRET_KEY,
            "AMPLITUDE_BASE_URL": self.base_url,
        }

    def add(self, cohorts: Sequence[str]) -> None:
        """Add cohorts, and begin a new account."""
        self._asked({"add": list(cohorts)})

    def account(self) -> Account:
        """Return the account since cohorts were added."""
        return Account(**self._asked({}))

    def _asked(self, question: dict[str, object]) -> Any:
        self._words.write(json.dumps(question) + "\n")
        self._words.flush()

        return json.loads(self._answers.readline())


@contextmanager
def running_service(scale: float, path: str) -> Iterator[Service]:
    """
    Run one meanwhile; it ends with this process, even if that is killed.

    Args:
        scale: How many of its seconds pass in one.
        path: Where its process finds what it imports.
    """
    env = {"PYTHONPATH": path}

    with spoken_to(__file__, repr(scale), env=env) as (words, answers):
        yield Service(json.loads(answers.readline()), words, answers)


@attrs.define
class _Book:
    emulator: CohortsEmulator
    clock: ScaledClock
    first: int = 0
    spent: int = 0
    broken: int = 0

    def begin(self, cohorts: Sequence[str]) -> None:
        """Begin a new account."""
        for cohort_id in cohorts:
            self.emulator.add_cohort(cohort_id, members=members_of(cohort_id))

        self.first = len(self.emulator.log)
        self.spent = self.emulator.spent
        self.broken = len(self.emulator.violations)

    def account(self) -> Account:
        """Return the account until now."""
        log = [each for each in self.emulator.log[self.first :] if each.step != "store"]
        violations = self.emulator.violations[self.broken :]
        return Account(
            spent=self.emulator.spent - self.spent,
            requests=len(log),
            refused=sum(each.status == 429 for each in log),
            violations=Counter(each.rule for each in violations),
            started={
                urlsplit(each.target).path.rpartition("/")[2]: self._real(each.at)
                for each in log
                if each.step == "export"
            },
        )

    def _real(self, at: float) -> float:
        return self.clock.zero + at / self.clock.scale


async def serve(scale: float) -> None:
    """Say where it is, and answer until stdin ends."""
    clock = ScaledClock(scale)
    emulator = CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        quotas=Quotas(month=_MONTH),
        job_seconds=JOB_SECONDS,
    )
    book = _Book(emulator, clock)

    async with emulator:
        _tell(emulator.base_url)
        while line := await asyncio.to_thread(sys.stdin.readline):
            question = json.loads(line)
            if cohorts := question.get("add"):
                book.begin(cohorts)
            _tell(attrs.asdict(book.account()))


def _tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
