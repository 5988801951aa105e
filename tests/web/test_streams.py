"""Streams of events: a snapshot, each change, and an end of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

from fastapi import FastAPI

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib.fastapi import CohortExports
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.clients import unlimited_client
from support.exporting import until
from support.scripted_store import ScriptedStore
from support.web import COHORT, IDS, Browser, Event, mounted, served

Make = Callable[[], CohortsClient]


async def test_snapshot_then_changes_then_end(browser: Browser) -> None:
    """The first event is the present state, whose id is the revision of the record."""
    started = await browser.start()
    path = f"{started.headers['location']}/events"
    events = [event async for event in browser.events(path)]

    *changes, end = events
    states = [event.data["state"] for event in changes]
    assert ("requested", "saved") == (states[0], states[-1])
    assert Event("end", None, {}) == end
    assert {"export"} == {event.name for event in changes}
    assert all(event.id == str(event.data["revision"]) for event in changes)


async def test_no_event_says_nothing_new(browser: Browser) -> None:
    """Steps that were not due change a record, and no state."""
    started = await browser.start()
    path = f"{started.headers['location']}/events"
    told = [
        {**event.data, "revision": 0, "updated_at": None}
        async for event in browser.events(path)
    ]

    assert all(one != other for one, other in pairwise(told))


async def test_reload_begins_with_the_present_state(browser: Browser) -> None:
    """A page that is loaded again is told all, whatever it has heard before."""
    started = await browser.start()
    location = started.headers["location"]
    await browser.until_over(location)

    path = f"{location}/events"
    events = [event async for event in browser.events(path)]
    assert ["saved"] == [event.data["state"] for event in events[:-1]]
    assert "end" == events[-1].name


async def test_one_stream_tells_all(
    browser: Browser, emulator: CohortsEmulator
) -> None:
    """A page needs one stream for all exports; it ends when all are over."""
    emulator.add_cohort("other", members=IDS)
    starts = [await browser.start(cohort) for cohort in (COHORT, "other")]
    last = {
        event.data["id"]: event.data["state"]
        async for event in browser.events()
        if event.name == "export"
    }

    assert {started.json["id"]: "saved" for started in starts} == last


async def test_nothing_to_tell(browser: Browser) -> None:
    """A page without exports holds no connection."""
    assert ["end"] == [event.name async for event in browser.events()]


async def test_streams_end_when_the_service_does(
    make_client: Make, clock: FakeClock, folder: Path, emulator: CohortsEmulator
) -> None:
    """They end without the last event: the browser is to connect again."""
    still = FakeClock(jumps=False)
    exports = CohortExports(folder, client=make_client, clock=still)
    app = FastAPI(lifespan=exports.lifespan)
    app.include_router(exports.router(auth=None), prefix="/api")

    async with served(app, stop=exports.stop) as browser:
        started = await browser.start()
        names = []
        async for event in browser.events(f"{started.headers['location']}/events"):
            names.append(event.name)
            exports.stop()

    assert {"export"} == set(names)


async def test_browser_that_leaves_stops_nothing(browser: Browser) -> None:
    """Closing the page cancels no export."""
    started = await browser.start()
    location = started.headers["location"]
    async with aclosing(browser.events(f"{location}/events")) as events:
        await anext(events)

    state = await browser.until_over(location)
    assert "saved" == state["state"]


async def test_one_reader_for_many_streams(
    emulator: CohortsEmulator, folder: Path
) -> None:
    """However many streams there are, a look into the store is one for all of them."""
    emulator.add_cohort(COHORT, members=IDS)
    store, still = Counting(), FakeClock(jumps=False)

    def make() -> CohortsClient:
        return unlimited_client(emulator.base_url, still, jobs=store)

    async with mounted(folder, client=make, clock=still) as browser:
        started = await browser.start()
        location = started.headers["location"]
        async with asyncio.TaskGroup() as group:
            ready = [asyncio.Event() for _ in range(10)]
            for each in ready:
                group.create_task(_follow(browser, f"{location}/events", each))
            for each in ready:
                await each.wait()
            reads = [await _reads_of_a_second(store, still) for _ in range(5)]
            await browser.ask("DELETE", location)

    assert max(reads) < 5


class Counting(ScriptedStore):
    """A store that counts how often all of it is read."""

    listed = 0

    async def groups(self, app: str) -> Sequence[str]:
        """Count, and return the groups."""
        self.listed += 1
        return await super().groups(app)


async def _reads_of_a_second(store: Counting, still: FakeClock) -> int:
    before = store.listed

    def is_read() -> bool:
        still.advance(0.1)
        return store.listed > before

    await until(is_read)
    # Others would read it now as well.
    for _ in range(100):
        await asyncio.sleep(0)

    return store.listed - before


async def _follow(browser: Browser, path: str, ready: asyncio.Event) -> None:
    async for _ in browser.events(path):
        ready.set()
