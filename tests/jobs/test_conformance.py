"""Every job store of ours keeps the promises of all; the suite finds one that fails."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import pytest

from amplitude_cohorts_async.jobs import JobStore, MemoryJobStore, SqliteJobStore, Work
from amplitude_cohorts_async.testing import JobStoreConformance

if TYPE_CHECKING:
    from support.postgres import Postgres
    from support.valkey import Valkey

T = TypeVar("T")


class TestMemoryJobStore(JobStoreConformance):
    """Which is one for all."""

    @pytest.fixture(autouse=True)
    def store(self) -> None:
        """The store of this test."""
        self.memory = MemoryJobStore()

    def make(self) -> JobStore:
        """The same."""
        return self.memory


@pytest.mark.parametrize("journal_mode", ["WAL", "DELETE"])
class TestSqliteJobStore(JobStoreConformance):
    """In both modes."""

    path: Path
    mode: Literal["WAL", "DELETE"]

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path, journal_mode: Literal["WAL", "DELETE"]) -> None:
        """The file of this test."""
        self.path, self.mode = tmp_path / "exports.db", journal_mode

    def make(self) -> JobStore:
        """One more on the file."""
        return SqliteJobStore(self.path, journal_mode=self.mode)


@pytest.mark.services
class TestRedisJobStore(JobStoreConformance):
    """On one Valkey."""

    @pytest.fixture(autouse=True)
    def server(self, valkey: Valkey) -> None:
        """The server of this test."""
        redis = pytest.importorskip("redis", reason="the extra redis is not installed")
        self.url = valkey.url

        with redis.Redis.from_url(valkey.url) as server:
            server.flushall()

    def make(self) -> JobStore:
        """One more on the server."""
        from amplitude_cohorts_async.contrib.redis import RedisJobStore  # noqa: PLC0415

        return RedisJobStore.from_url(self.url)


@pytest.mark.services
class TestPostgresJobStore(JobStoreConformance):
    """On one Postgres."""

    @pytest.fixture(autouse=True)
    def server(self, postgres: Postgres) -> None:
        """The server of this test."""
        self.url = postgres.url

    def make(self) -> JobStore:
        """One more on the server."""
        contrib = import_module("amplitude_cohorts_async.contrib.postgres")

        return contrib.PostgresJobStore.from_url(self.url)  # type: ignore[no-any-return]


class FileJobStore(JobStore):
    """A user's own: one file of JSON, as in `docs/jobs.md`."""

    durable = True

    def __init__(self, path: Path) -> None:
        self.path = path

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run the work in a thread, while the file is locked."""
        return await asyncio.to_thread(self._transact, app, group, work)

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups that have rows."""
        return [*(await asyncio.to_thread(self._read)).get(app, {})]

    def _transact(self, app: str, group: str, work: Work[T]) -> T:
        import fcntl  # noqa: PLC0415 - not on Windows

        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            apps = self._read()
            groups = apps.setdefault(app, {})
            result = work(groups.setdefault(group, {}), time.time())
            if not groups[group]:
                del groups[group]
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(apps))
            part.replace(self.path)
            return result

    def _read(self) -> dict[str, dict[str, dict[str, str]]]:
        with suppress(FileNotFoundError):
            return json.loads(self.path.read_text())  # type: ignore[no-any-return]

        return {}


@pytest.mark.posix
class TestFileJobStore(JobStoreConformance):
    """A store of less than fifty lines."""

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        """The file of this test."""
        self.path = tmp_path / "exports.json"

    def make(self) -> JobStore:
        """One more on the file."""
        return FileJobStore(self.path)


class Broken(JobStore):
    """A store in memory with a flaw."""

    shared: ClassVar[dict[tuple[str, str], dict[str, str]]] = {}

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Work on a copy, and store it."""
        rows = dict(self.shared.get((app, group), {}))
        result = work(rows, time.monotonic())
        await self.store(app, group, rows)

        return result

    async def store(self, app: str, group: str, rows: dict[str, str]) -> None:
        """Replace the rows of a group."""
        self.shared[app, group] = rows
        if not rows:
            del self.shared[app, group]

    async def groups(self, app: str) -> Sequence[str]:
        """Return the groups of an app that have rows."""
        return [group for of_app, group in self.shared if of_app == app]


class Forgetful(Broken):
    """Not durable, though it says so."""

    durable = True

    async def aclose(self) -> None:
        """Forget."""
        self.shared.clear()


class Overwriting(Broken):
    """Others may change the rows between the work and its record."""

    async def store(self, app: str, group: str, rows: dict[str, str]) -> None:
        """Give way first."""
        await asyncio.sleep(0)
        await super().store(app, group, rows)


class RowByRow(Broken):
    """Others see a half; a cancellation leaves one."""

    async def store(self, app: str, group: str, rows: dict[str, str]) -> None:
        """Give way between the rows."""
        stored = self.shared.setdefault((app, group), {})
        for key, value in rows.items():
            stored[key] = value
            await asyncio.sleep(0)
        for key in stored.keys() - rows.keys():
            del stored[key]
        if not stored:
            del self.shared[app, group]


class InPlace(Broken):
    """Work that fails has changed the rows."""

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Work on the rows themselves."""
        rows = self.shared.setdefault((app, group), {})
        try:
            return work(rows, time.monotonic())
        finally:
            if not rows:
                del self.shared[app, group]


class Twice(Broken):
    """Runs the work again on what it changed."""

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Run it twice, as after a conflict."""
        rows = dict(self.shared.get((app, group), {}))
        work(rows, time.monotonic())
        result = work(rows, time.monotonic())
        await self.store(app, group, rows)

        return result


class OneApp(Broken):
    """Knows the group only."""

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Forget the app."""
        del app
        return await super().transact("app", group, work)

    async def groups(self, app: str) -> Sequence[str]:
        """Forget the app."""
        del app
        return await super().groups("app")


class AllGroups(Broken):
    """Tells groups that have no rows."""

    async def store(self, app: str, group: str, rows: dict[str, str]) -> None:
        """Never remove one."""
        self.shared[app, group] = rows


class Adding(Broken):
    """Never removes a row."""

    async def store(self, app: str, group: str, rows: dict[str, str]) -> None:
        """Add to what is there."""
        old = self.shared.get((app, group), {})
        await super().store(app, group, {**old, **rows})


class BackInTime(Broken):
    """Its users have clocks of their own."""

    behind: ClassVar[float] = 0.0

    def __init__(self) -> None:
        BackInTime.behind += 100.0
        self.mine = BackInTime.behind

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Work at another time."""
        return await super().transact(
            app, group, lambda rows, now: work(rows, now - self.mine)
        )


class Swallowing(Broken):
    """Loses the error of the work."""

    async def transact(self, app: str, group: str, work: Work[T]) -> T:
        """Raise another one."""
        try:
            return await super().transact(app, group, work)
        except KeyError as error:
            raise RuntimeError from error


FLAWS: list[tuple[type[Broken], str]] = [
    (Forgetful, "says it is durable"),
    (Overwriting, "additions made|same result"),
    (RowByRow, "half of a change"),
    (InPlace, "work that failed left"),
    (Twice, "made twice|additions made"),
    (OneApp, "two apps are mixed"),
    (AllGroups, "still told|has groups|told as"),
    (Adding, "a removal"),
    (BackInTime, "set back"),
    (Swallowing, "the error came out"),
]


async def complaints(flaw: type[Broken]) -> list[str]:
    """What the suite says about a store."""

    class Suite(JobStoreConformance):
        """Of that store."""

        def make(self) -> JobStore:
            """One more."""
            return flaw()

    found: list[str] = []

    for name, test in inspect.getmembers(Suite(), inspect.iscoroutinefunction):
        if name.startswith("test_"):
            Broken.shared.clear()
            try:
                await test()
            except (AssertionError, KeyError, RuntimeError) as error:
                found.append(str(error))

    return found


@pytest.mark.parametrize(
    ("flaw", "message"), FLAWS, ids=[flaw.__name__ for flaw, _ in FLAWS]
)
async def test_the_suite_finds_a_store_that_breaks_a_promise(
    flaw: type[Broken], message: str
) -> None:
    """And names what is wrong."""
    found = await complaints(flaw)

    assert any(re.search(message, text) for text in found), found


async def test_a_store_without_a_flaw_passes() -> None:
    """The store that the others are made of breaks no promise."""
    assert [] == await complaints(Broken)


async def test_a_store_that_another_test_filled_is_told_as_such() -> None:
    """Not as one that breaks a promise."""
    store = MemoryJobStore()

    class Suite(JobStoreConformance):
        """With one store for all tests."""

        def make(self) -> JobStore:
            """The same."""
            return store

    await store.transact("app", "group", lambda rows, _now: rows.update(key="1"))

    with pytest.raises(AssertionError, match="is not empty"):
        await Suite().test_no_change_is_lost()
