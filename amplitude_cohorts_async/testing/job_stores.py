"""What every job store promises, as tests for a store of your own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..jobs import JobStore

__all__ = ("JobStoreConformance",)

_CALLERS, _CHANGES = 8, 12
_PATIENCE = 60.0


class JobStoreConformance:
    """
    The promises of a job store, each as a test.

    Subclass it in your tests and write `make()`:

        class TestTableStore(JobStoreConformance):
            def make(self):
                return TableStore(self.path)

    Any plugin that runs asynchronous tests runs these; fixtures of the subclass may
    prepare what `make()` needs, empty for each test. They need no machine that is
    idle, and take a second or two, as long as your store takes for a few hundred
    changes.
    """

    def make(self) -> JobStore:
        """Return a store, as another process opens it; those of a test share rows."""
        raise NotImplementedError

    async def test_a_new_store_is_empty(self) -> None:
        """It has no rows, and no groups."""
        async with self._opened(1) as (store,):
            rows = await _rows(store)

        _check(rows == {}, f"a new store has rows: {rows}")

    async def test_the_result_of_the_work_is_returned(self) -> None:
        """As it is."""
        result = object()

        async with self._opened(1) as (store,):
            returned = await store.transact("app", "group", lambda _rows, _now: result)

        _check(returned is result, f"transact() returned {returned!r}")

    async def test_rows_are_kept_as_they_are(self) -> None:
        """Keys and values are any text: long, empty, of any script and character."""
        rows = {
            "a:b": "",
            "key with spaces, 'quotes' and \"more\"": 'x"\\\n\t\x7f',
            "Schlüssel 🔑": "Ω" * 100_000,
        }

        async with self._opened(2) as (store, other):
            await _write(store, rows)
            found = await _rows(store)
            elsewhere = await _rows(other)

        _check(found == rows, "the rows came back changed")
        _check(elsewhere == rows, "another user of the store sees other rows")

    async def test_rows_are_changed_and_removed(self) -> None:
        """What the work leaves is what is stored."""
        async with self._opened(2) as (store, other):
            await _write(store, {"kept": "1", "changed": "1", "removed": "1"})
            await other.transact("app", "group", _edit)
            found = await _rows(store)

        _check(
            found == {"kept": "1", "changed": "2", "added": "2"},
            f"after a change, a removal and an addition the rows are {found}",
        )

    async def test_what_is_stored_outlives_the_store_if_it_is_durable(self) -> None:
        """All users close it, and one opens it again."""
        async with self._opened(1) as (store,):
            await _write(store, {"key": "1"})
            durable = store.durable

        async with self._opened(1, is_new=False) as (store,):
            found = await _rows(store)
            groups = list(await store.groups("app"))

        if durable:
            _check(found == {"key": "1"}, "the store says it is durable, and is not")
            _check(groups == ["group"], "the group was lost when the store was closed")

    async def test_no_change_is_lost(self) -> None:
        """Callers at once, of two users of the store: each sees what others changed."""
        async with self._opened(2) as members:

            async def count(store: JobStore) -> list[int]:
                """Add one, so many times."""
                return [
                    await store.transact("app", "group", _add_one)
                    for _ in range(_CHANGES)
                ]

            counting = (count(members[n % 2]) for n in range(_CALLERS))
            async with asyncio.timeout(_PATIENCE):
                counts = await asyncio.gather(*counting)
            found = await _rows(members[0])

        total = _CALLERS * _CHANGES
        _check(found == {"count": str(total)}, f"{total} additions made {found}")
        _check(
            sorted(chain(*counts)) == list(range(1, total + 1)),
            "two callers were told the same result: one of them did not see the other",
        )

    async def test_a_group_is_changed_as_a_whole(self) -> None:
        """No caller sees one row of a change without the other."""
        async with self._opened(2) as (store, other):

            async def write() -> None:
                """Change two rows, always to the same."""
                for number in range(_CHANGES):
                    text = str(number)
                    await _write(store, {"one": text, "other": text})

            writing = asyncio.ensure_future(write())
            seen: list[dict[str, str]] = []
            while not writing.done():
                seen.append(await _rows(other))
                await asyncio.sleep(0)
            await writing

        torn = [rows for rows in seen if rows.get("one") != rows.get("other")]
        _check(not torn, f"half of a change was seen: {torn[:1]}")

    async def test_work_that_fails_changes_nothing(self) -> None:
        """Its error comes out as it is, and its changes are not kept."""
        error = KeyError("mine")
        caught: BaseException | None = None

        def fail(rows: MutableMapping[str, str], _now: float) -> None:
            """Change, and fail."""
            _edit(rows, _now)
            raise error

        async with self._opened(2) as (store, other):
            before = {"kept": "1", "changed": "1", "removed": "1"}
            await _write(store, before)
            try:
                await store.transact("app", "group", fail)
            except Exception as raised:  # noqa: BLE001 - whatever comes out is told
                caught = raised
            found = [await _rows(store), await _rows(other)]

        _check(caught is error, f"the error came out as {caught!r}")
        _check(found == [before, before], f"work that failed left {found}")

    async def test_work_begins_with_what_is_stored_each_time_it_runs(self) -> None:
        """If it runs again, what it changed before is not there."""
        begun: list[dict[str, str]] = []

        def note(rows: MutableMapping[str, str], _now: float) -> None:
            """Note the rows, and add one to the count."""
            begun.append(dict(rows))
            _add_one(rows, _now)

        async with self._opened(2) as members:
            work = (
                members[n % 2].transact("app", "group", note) for n in range(_CALLERS)
            )
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*work)
            found = await _rows(members[0])

        unknown = [
            rows for rows in begun if int(rows.get("count", "0")) not in range(_CALLERS)
        ]
        _check(found == {"count": str(_CALLERS)}, "a change was made twice")
        _check(not unknown, f"work began with rows that were not stored: {unknown[:1]}")

    async def test_groups_are_told_and_kept_apart(self) -> None:
        """Those that have rows; one without rows is none."""
        names = ["runs", "cohort:26umsb5", "cohort:ü/%:_ *?[a]"]

        async with self._opened(2) as (store, other):
            for name in names:
                await _write(store, {"key": name}, group=name)
            await _rows(store, group="only read")
            told = sorted(await other.groups("app"))
            found = [await _rows(other, group=name) for name in names]
            await _write(store, {}, group=names[0])
            left = sorted(await other.groups("app"))

        _check(told == sorted(names), f"the groups are told as {told}")
        _check(
            found == [{"key": name} for name in names], f"the groups' rows are {found}"
        )
        _check(
            left == sorted(names[1:]), "a group that lost its last row is still told"
        )

    async def test_apps_are_kept_apart(self) -> None:
        """The same group of another app is another one."""
        async with self._opened(1) as (store,):
            await _write(store, {"key": "1"}, app="one")
            await _write(store, {"key": "2"}, app="one more")
            await _write(store, {}, app="one more")
            found = [await _rows(store, app=name) for name in ("one", "one more")]
            groups = [list(await store.groups(name)) for name in ("one", "one more")]

        _check(found == [{"key": "1"}, {}], f"two apps are mixed: {found}")
        _check(groups == [["group"], []], f"the groups of two apps are mixed: {groups}")

    async def test_the_time_is_shared_and_never_set_back(self) -> None:
        """Each answer is as late as those before, for all users; and it goes on."""
        times: list[float] = []

        async with self._opened(2) as (store, other):
            for member in (store, other, store, other):
                times.append(await member.transact("app", "group", _time))
                await asyncio.sleep(0.02)

        backwards = [pair for pair in pairwise(times) if pair[1] < pair[0]]
        _check(not backwards, f"the time was set back: {backwards[:1]}")
        _check(times[0] < times[-1], f"the time stands still: {times}")

    async def test_a_cancellation_leaves_all_or_nothing(self) -> None:
        """Wherever it comes; and afterwards the store works as before."""
        confirmed, calls = 0, 60

        async with self._opened(2) as (store, other):
            for number in range(calls):
                changing = asyncio.ensure_future(
                    store.transact("app", "group", _add_to_both)
                )
                for _ in range(number % 20):
                    await asyncio.sleep(0)
                await asyncio.sleep(max(0, number - 40) / 5_000)
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)
                confirmed += not changing.cancelled()
                found = await _rows(other)
                _check(
                    found.get("one") == found.get("other"),
                    f"a cancellation left half of a change: {found}",
                )

            async with asyncio.timeout(_PATIENCE):
                await store.transact("app", "group", _add_to_both)
            count = int((await _rows(other))["one"])

        _check(confirmed < count, "a change that was confirmed is not there")
        _check(count <= calls + 1, "a change that was cancelled was made twice")

    async def test_it_may_be_closed_twice(self) -> None:
        """Also if it was never used."""
        for is_used in (False, True):
            store = self.make()
            if is_used:
                await _write(store, {"key": "1"})
            await store.aclose()
            await store.aclose()

    @asynccontextmanager
    async def _opened(
        self, count: int, *, is_new: bool = True
    ) -> AsyncGenerator[list[JobStore]]:
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(aclosing(self.make()))
                for _ in range(count)
            ]
            groups = list(await stores[0].groups("app")) if is_new else []
            _check(
                groups == [],
                f"the store that make() returned is not empty, it has groups: {groups}; "
                "each test needs a store of its own",
            )
            yield stores


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


async def _rows(
    store: JobStore, app: str = "app", group: str = "group"
) -> dict[str, str]:
    """Return the rows of a group."""
    return await store.transact(app, group, lambda rows, _now: dict(rows))


async def _write(
    store: JobStore, new: dict[str, str], app: str = "app", group: str = "group"
) -> None:
    """Replace the rows of a group."""

    def work(rows: MutableMapping[str, str], _now: float) -> None:
        """Replace them in place."""
        rows.clear()
        rows.update(new)

    await store.transact(app, group, work)


def _edit(rows: MutableMapping[str, str], _now: float) -> None:
    rows["changed"] = "2"
    del rows["removed"]
    rows["added"] = "2"


def _add_one(rows: MutableMapping[str, str], _now: float) -> int:
    count = int(rows.get("count", "0")) + 1
    rows["count"] = str(count)

    return count


def _add_to_both(rows: MutableMapping[str, str], _now: float) -> None:
    for name in ("one", "other"):
        rows[name] = str(int(rows.get(name, "0")) + 1)


def _time(_rows: MutableMapping[str, str], now: float) -> float:
    return now
