"""A call whose processes are killed, and what must hold when it is over."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

from amplitude_cohorts_async._core.job_rows import (
    CohortRows,
    Rows,
    read_cohort,
    read_runs,
)
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from amplitude_cohorts_async.testing.faults import Step

from .canary import API_KEY, SECRET_KEY
from .crashing import Call, Way, caller
from .exporting import names_in

MEMBERS = [f"user{number}" for number in range(1_500)]
FEW = [f"user{number}" for number in range(30)]
WANTED = tuple(f"user{number}" for number in range(20, 55))


@attrs.define
class Scene:
    """
    One call, made again until it ends.

    Attributes:
        met: What happened: processes "killed", exports and uploads that were told to
            be "ambiguous", and the states at which a process was killed.
        replaced: The exports of a sync, by their number, that its own writes made old.
        edited: Those that may look old: the list tells seconds, and an earlier write of
            the sync may have come in the second of the export's request.
    """

    service: CohortsEmulator
    call: Call
    spent_before: int
    cohorts_before: int
    met: Counter[str] = attrs.field(factory=Counter[str])
    replaced: set[int] = attrs.field(factory=set[int])
    edited: set[int] = attrs.field(factory=set[int])

    @classmethod
    def of(
        cls, service: CohortsEmulator, folder: Path, way: Way, number: int = 0
    ) -> Scene:
        """Set up cohorts and a folder of its own; the store is for all scenes."""
        own = folder / f"{way}{number}"
        own.mkdir()
        names = tuple(f"{way}{number}.{n}" for n in range(4 if way == "many" else 1))

        for name in names if way != "upload" else ():
            members = MEMBERS if way == "export" else FEW
            service.add_cohort(name, members=members)

        call = Call(
            service=service.base_url,
            store=str(folder / "exports.db"),
            way=way,
            folder=own,
            names=names,
            ids=WANTED if way in {"upload", "sync"} else (),
        )
        return cls(service, call, service.spent, len(service.cohort_ids))

    @property
    def spent(self) -> int:
        """The exports that the service counts."""
        return self.service.spent - self.spent_before

    async def run(self, kills: Sequence[float] = ()) -> float:
        """
        Make the call until it ends, check what is there then; return how long it took.

        Args:
            kills: Seconds from the beginning of a process to its end.
        """
        started = time.monotonic()
        for seconds in kills:
            if await self.is_over(self.call, seconds):
                break
        else:
            await self.finish()
        lasted = time.monotonic() - started

        await self.check()
        return lasted

    async def is_over(
        self,
        call: Call,
        after: float | None = None,
        at_request: tuple[Step, int] | None = None,
    ) -> bool:
        """
        Make a call that is killed, by itself or from outside; whether it is done.

        Args:
            after: Seconds from its beginning.
            at_request: When the service has received the n-th request of a step; the
                answer never comes.
        """
        async with caller(call) as process:
            with _arrivals(self.service, at_request, process.kill):
                told = await process.killed(after)

        self.met["ambiguous"] += told.ambiguous
        if told.spent is not None:
            return True

        self.met["killed"] += 1
        self.met[f"killed when {self.state()}"] += 1
        if self._is_recorded():
            return True
        self._note_replaced()
        return False

    async def finish(self) -> int:
        """Make the call in a process that nobody kills; return what it says it spent."""
        async with caller(self.call) as process:
            told = await process.ended()

        assert told.spent is not None
        self.met["ambiguous"] += told.ambiguous
        return told.spent

    def state(self) -> str:
        """Return how far the store says the first cohort's export is."""
        if self.call.way == "upload":
            lines = self.call.journal.exists() and self.call.journal.read_text()
            return f"{lines.count(chr(10)) if lines else 0} lines"

        rows = self._rows(self.call.names[0])
        newest = max(
            rows.deliveries.values(), key=lambda row: row.begun_at, default=None
        )
        if newest is None:
            return "unknown"
        if newest.answered_at is not None:
            return "answered"
        if newest.finished_at is not None:
            return "finished"
        if self.call.way == "sync" and rows.written > newest.sequence > 0:
            return "writing"
        return rows.exports[newest.export_id].state.value

    def deliveries(self) -> int:
        """Return to how many callers the store says the export goes."""
        return len(self._rows(self.call.names[0]).deliveries)

    async def check(self) -> None:
        """Hold what is there against what the service has and counts."""
        self._check_spent()
        way, folder = self.call.way, self.call.folder
        (name, *_) = self.call.names

        if way in {"export", "many"}:
            assert sorted(f"{each}.csv" for each in self.call.names) == names_in(folder)
            for each in self.call.names:
                target = folder / f"{each}.csv"
                assert await served(self.service, each) == target.read_bytes()
        elif way == "upload":
            (created,) = self.service.cohort_ids[self.cohorts_before :]
            assert set(WANTED) == self.service.members_of(created)
            assert ["journal"] == names_in(folder)
        else:
            assert set(WANTED) == self.service.members_of(name)
            assert [] == names_in(folder)

    def _check_spent(self) -> None:
        """Each export is in the store, or was told to be unknown."""
        known = sum(
            export.request_id is not None
            for name in self.call.names
            for export in self._rows(name).exports.values()
        )
        asked_for = 0 if self.call.way == "upload" else len(self.call.names)

        more = known - asked_for - len(self.replaced)
        assert 0 <= more <= len(self.edited)
        if self.call.way == "upload":
            assert 0 == self.spent
        else:
            assert known <= self.spent <= known + self.met["ambiguous"]

    def _is_recorded(self) -> bool:
        """Whether the store says that the call delivered everything."""
        deliveries = [self._rows(name).deliveries.values() for name in self.call.names]

        if self.call.way != "many":
            return any(row.answered_at is not None for row in deliveries[0])

        runs = read_runs(self._group("runs")).values()
        return all(
            any(row.finished_at is not None for row in rows) for rows in deliveries
        ) and not any(
            run.open and str(self.call.folder) in run.directory for run in runs
        )

    def _note_replaced(self) -> None:
        rows = self._rows(self.call.names[0])
        newest = max((row.sequence for row in rows.exports.values()), default=0)

        if self.call.way == "sync" and rows.written > newest > 0:
            self.replaced.add(newest)
        elif self.replaced:
            self.edited.add(newest)

    def _rows(self, name: str) -> CohortRows:
        return read_cohort(self._group(f"cohort:{name}"))

    def _group(self, kind: str) -> Rows:
        if not Path(self.call.store).exists():
            return {}

        with closing(sqlite3.connect(self.call.store)) as connection:
            select = "SELECT key, value FROM rows WHERE kind = ?"
            try:
                return dict(connection.execute(select, (kind,)).fetchall())
            except sqlite3.OperationalError:  # killed before there was a table
                return {}


@contextmanager
def _arrivals(
    service: CohortsEmulator,
    watched: tuple[Step, int] | None,
    act: Callable[[], None],
) -> Iterator[None]:
    """Act when the n-th request of a step has come, before the service does anything."""
    if watched is None:
        yield
        return

    step, left = watched

    def reply(answer: Callable[..., object], exchange: Any, fault: object) -> object:
        """Stand in for the function that answers."""
        nonlocal left
        left -= exchange.record.step == step
        if left == 0 and exchange.record.step == step:
            act()
        return answer(exchange, fault)

    with pytest.MonkeyPatch.context() as patch:
        for origin in (service._api, service._store):
            patch.setattr(origin, "reply", partial(reply, origin.reply))
        yield


async def served(service: CohortsEmulator, name: str) -> bytes:
    """Export a cohort without the library; return the bytes of its file."""
    keys = base64.b64encode(f"{API_KEY}:{SECRET_KEY}".encode()).decode()
    headers = {"Authorization": f"Basic {keys}"}
    path = f"{service.base_url}/api/5/cohorts"

    # A link is signed as it is written.
    async with aiohttp.ClientSession(requote_redirect_url=False) as session:

        async def ask(url: str) -> tuple[int, bytes]:
            """Send a request."""
            async with session.get(url, headers=headers) as response:
                return response.status, await response.read()

        _, accepted = await ask(f"{path}/request/{name}")
        job = json.loads(accepted)["request_id"]
        while (await ask(f"{path}/request-status/{job}"))[0] == 202:
            await asyncio.sleep(0.02)
            if isinstance(service.clock, FakeClock):
                service.clock.advance(60)
        status, file = await ask(f"{path}/request/{job}/file")
        assert 200 == status, file

        return file
