"""
Calls in processes of their own, which are killed at any moment.

A process costs a fork: the server that forks has imported the library already
(measured: 30 ms instead of 700 ms on a busy machine).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import aiohttp
import anyio._backends._asyncio
import attrs
import cattrs

from amplitude_cohorts_async import CohortsClient, _operations
from amplitude_cohorts_async._writes import batches, id_stream, upload
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    AmbiguousUploadError,
)
from amplitude_cohorts_async.jobs import JobStore, OnUnknown, SqliteJobStore, Work
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.models import IdType
from amplitude_cohorts_async.policies import Polling

from .canary import API_KEY, SECRET_KEY
from .dying import What, When, die_at

T = TypeVar("T")

Way: TypeAlias = Literal["export", "many", "upload", "sync"]
Tell: TypeAlias = Callable[[], None]
"""Tells the test that what is unknown is about to be done again."""

TESTS = Path(__file__).parents[1]
IDS_A_REQUEST = 10
AMBIGUOUS = "ambiguous"

# A client imports these when it is entered: here they come before the fork.
PRELOADED = (aiohttp, anyio._backends._asyncio, cattrs, _operations)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


@attrs.frozen(kw_only=True)
class Call:
    """
    One call of a client, the same in each process that makes it.

    Attributes:
        store: The file of the job store.
        names: The cohorts; or the name of the one that an upload creates.
        ids: Of an upload or a sync.
        dies: When the process kills itself: before or after the n-th time that it does
            something to the store or to a file.
        at: What that is.
    """

    service: str
    store: str
    way: Way
    folder: Path
    names: tuple[str, ...]
    ids: tuple[str, ...] = ()
    dies: tuple[When, int] | None = None
    at: What = "transaction"

    @property
    def target(self) -> Path:
        """The file of one export."""
        return self.folder / f"{self.names[0]}.csv"

    @property
    def journal(self) -> Path:
        """The journal of an upload."""
        return self.folder / "journal"


@attrs.frozen
class Told:
    """
    What a process told before its end.

    Attributes:
        ambiguous: The exports, or uploads, of which nobody could know, and which it
            was about to do again.
        spent: The exports that its call says it spent; None if it was killed.
    """

    ambiguous: int
    spent: int | None


class DyingStore(SqliteJobStore):
    """A store on disk whose process is killed at one of its transactions."""

    def __init__(self, path: str, dies: tuple[When, int]) -> None:
        super().__init__(path)
        self._when, self._left = dies

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run a transaction, or die."""
        self._left -= 1
        if self._left == 0 and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await super().transact(app, group, work)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

        return result


class Caller:
    """A process that makes a call."""

    def __init__(self, call: Call) -> None:
        self._words, theirs = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_work, args=(call, theirs))
        # The server's path is what this process has when it starts the first one.
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
        try:
            self._process.start()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        theirs.close()

    async def begun(self) -> None:
        """Wait until it calls."""
        await _readable(self._words.fileno())
        assert "begins" == self._words.recv()

    async def killed(self, after: float | None) -> Told:
        """Kill it so many seconds from now, if it still runs."""
        with suppress(TimeoutError):
            await asyncio.wait_for(_readable(self._process.sentinel), after)
        self._process.kill()

        return await self.ended()

    def kill(self) -> None:
        """Kill it, and wait until it is dead: what it is sent now, it never gets."""
        self._process.kill()
        self._process.join()

    async def ended(self) -> Told:
        """Wait for its end; return what it told."""
        await _readable(self._process.sentinel)
        self._process.join()
        words = [*self._heard()]
        ambiguous = words.count(AMBIGUOUS)
        rest = [word for word in words if word != AMBIGUOUS]
        if not rest:
            assert -signal.SIGKILL == self._process.exitcode
            return Told(ambiguous, None)

        (spent,) = rest
        assert isinstance(spent, int), spent
        return Told(ambiguous, spent)

    def _heard(self) -> Iterator[object]:
        with suppress(EOFError):
            while self._words.poll():
                yield self._words.recv()

    def close(self) -> None:
        """Kill it if it runs, and release what this process has of it."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._words.close()


@asynccontextmanager
async def caller(call: Call) -> AsyncGenerator[Caller]:
    """Have a call made in a process, from its beginning."""
    process = Caller(call)
    try:
        await process.begun()
        yield process
    finally:
        process.close()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _work(call: Call, words: Connection) -> None:
    words.send("begins")
    try:
        words.send(asyncio.run(_made(call, lambda: words.send(AMBIGUOUS))))
    except Exception as error:  # noqa: BLE001 - the test's own process shows it
        words.send(repr(error))


async def _made(call: Call, tell: Tell) -> int:
    batches.MOST_IDS = id_stream.MOST_IDS = IDS_A_REQUEST
    upload._LIST_DELAYS = (0.0, 0.05, 0.1, 0.2)
    store: JobStore = SqliteJobStore(call.store)
    if call.dies is not None and call.at == "transaction":
        store = DyingStore(call.store, call.dies)
    elif call.dies is not None:
        die_at(call.at, *call.dies)

    async with (
        aclosing(store),
        CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=call.service,
            app_id=153957,
            owner="datamonster@amplitude.com",
            limits=UNLIMITED,
            polling=Polling(initial_delay=0.03, interval=0.03),
            jobs=store,
        ) as client,
    ):
        return await _WAYS[call.way](client, call, tell)


async def _export(client: CohortsClient, call: Call, tell: Tell) -> int:
    (name,) = call.names
    try:
        return (await client.export(name, call.target)).spent
    except AmbiguousExportError:
        tell()

    return (await client.export(name, call.target, on_unknown="spend")).spent


async def _many(client: CohortsClient, call: Call, tell: Tell) -> int:
    spent = 0
    choices: list[OnUnknown] = ["raise", "spend"]

    for on_unknown in choices:
        doubts = 0
        batch = client.export_many(
            call.names, call.folder, on_unknown=on_unknown, max_concurrency=2
        )
        async with batch:
            # All outcomes, and not the end: the run stays open.
            for _ in call.names:
                outcome = await anext(batch)
                spent += outcome.spent
                if isinstance(outcome.error, AmbiguousExportError):
                    doubts += 1
                elif outcome.error is not None:
                    raise outcome.error
            if not doubts:
                async for _ in batch:
                    raise AssertionError
                return spent
        for _ in range(doubts):
            tell()

    raise AssertionError


async def _upload(client: CohortsClient, call: Call, tell: Tell) -> int:
    (name,) = call.names

    while True:
        try:
            await client.upload_cohort(
                name, call.ids, id_type=IdType.USER_ID, journal=call.journal
            )
        except AmbiguousUploadError:
            # As its message says: who looks and finds none uploads again.
            if name in [cohort.name for cohort in await client.list_cohorts()]:
                raise
            tell()
            call.journal.unlink()
        else:
            return 0


async def _sync(client: CohortsClient, call: Call, tell: Tell) -> int:
    (name,) = call.names
    choices: list[OnUnknown] = ["raise", "spend"]

    for on_unknown in choices:
        try:
            await client.sync_membership(
                name, call.ids, max_removed=1.0, on_unknown=on_unknown
            )
        except AmbiguousExportError:
            tell()
        else:
            return 0

    raise AssertionError


_WAYS = {"export": _export, "many": _many, "upload": _upload, "sync": _sync}
