"""Ctrl-C in the calling thread: the call is cancelled and waited for, its token kept."""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from amplitude_cohorts_async import IdType
from amplitude_cohorts_async._io.progress import ProgressBar, draw_dispatcher
from amplitude_cohorts_async.blocking import CohortsClient, ExportJob
from amplitude_cohorts_async.blocking._calls import Call
from amplitude_cohorts_async.blocking._portal import Portal, current_portal
from amplitude_cohorts_async.events import BytesReceived, Event, StatusPolled
from amplitude_cohorts_async.testing import CohortsEmulator

from .conftest import COHORT


def press() -> None:
    """Press Ctrl-C: raises KeyboardInterrupt in the main thread at once."""
    signal.raise_signal(signal.SIGINT)


@contextmanager
def pressed_at_first_start(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> Iterator[None]:
    """Press it around the first start of work in the loop: "before", or "after"."""
    start, starts = Portal.start, iter(range(10))

    def interrupted(self: Portal, work: Callable[[], Awaitable[object] | None]) -> None:
        """Press it."""
        first = next(starts) == 0
        if first and when == "before":
            press()
        start(self, work)
        if first:
            press()

    with monkeypatch.context() as patched:
        patched.setattr(Portal, "start", interrupted)
        yield


def left(client: CohortsClient) -> list[object]:
    """Return the tasks that run on."""

    async def look() -> list[object]:
        """Look from the loop, after whatever has just ended there."""
        tasks = current_portal()._tasks - {asyncio.current_task()}

        return [task for task in tasks if not task.done()]

    return client._bridge.call().run(look)


def test_an_export_is_cancelled_and_keeps_its_token(
    cohorts_emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Nothing runs on, and the same call goes on with the export."""
    cohorts_emulator.add_cohort(COHORT, size=2_000)
    presses = iter([press])

    def hear(event: Event) -> None:
        """Press it once the export is waited for, the first time."""
        if isinstance(event, StatusPolled):
            next(presses, lambda: None)()

    target = tmp_path / "members.csv"
    with CohortsClient.from_env(clock=cohorts_emulator.clock, hook=hear) as client:
        with pytest.raises(KeyboardInterrupt) as caught:
            client.export(COHORT, target)

        assert [] == left(client)
        assert not target.exists()
        (note,) = caught.value.__notes__
        token = note.partition(": ")[2]
        assert COHORT == client.resume_export(token).cohort_id
        assert 0 == client.export(COHORT, target).spent


def test_a_job_that_came_with_the_interrupt_is_named(client: CohortsClient) -> None:
    """The call had ended in the loop, but had not returned in the thread."""
    call = client._bridge.call()
    real = call._next

    def late() -> object:
        """Wait for the end, then press."""
        task = real()
        press()
        return task

    call._next = late  # type: ignore[assignment, method-assign]

    with pytest.raises(KeyboardInterrupt) as caught:
        call.run(client._bridge.client.request_export, COHORT)

    assert COHORT in caught.value.__notes__[0]
    assert 1 == client.get_usage().used


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_call_that_was_not_started_never_is(
    client: CohortsClient, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Ctrl-C may come before the loop has heard of the call, or right after."""
    with (
        pressed_at_first_start(monkeypatch, when),
        pytest.raises(KeyboardInterrupt),
    ):
        client.request_export(COHORT)

    used = client.get_usage().used
    assert [] == left(client)
    assert used == len(client.jobs()) <= int(when == "after")


def test_ids_are_left_alone_after_it(client: CohortsClient) -> None:
    """What the caller's iterable is asked for meanwhile is refused."""

    def ids() -> Iterator[str]:
        """Yield one, and press it."""
        yield "user-1"
        press()

    with pytest.raises(KeyboardInterrupt):
        client.upload_cohort(
            "new", ids(), id_type=IdType.USER_ID, app_id=153957, owner="me@example.com"
        )

    assert [] == left(client)


def test_an_interrupted_stream_is_at_its_end(client: CohortsClient) -> None:
    """Its block is left, and the next one reads all of it."""
    job = client.request_export(COHORT)

    with pytest.raises(KeyboardInterrupt), job.members() as members:
        next(members)
        press()

    with job.members() as members:
        assert 25_000 == sum(map(len, members.batches()))

    assert [] == left(client)


def test_a_block_is_not_entered(client: CohortsClient) -> None:
    """What opened just then is left again: its slot, lease and connection."""
    opened = client.request_export(COHORT).members()
    wrap = opened._wrap  # type: ignore[attr-defined]

    def interrupted(*arguments: object) -> object:
        """Press it when the block is open, and the thread does not know."""
        press()
        return wrap(*arguments)

    opened._wrap = interrupted  # type: ignore[attr-defined]

    with pytest.raises(KeyboardInterrupt), opened:
        pytest.fail("the block was entered")

    client.close()
    assert [] == left(client)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_iterator_that_was_not_started_ends(
    client: CohortsClient, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Its task may not be there yet; closing it waits for nothing that never comes."""
    outcomes = client.run_jobs(forever=True)
    with (
        pressed_at_first_start(monkeypatch, when),
        pytest.raises(KeyboardInterrupt),
    ):
        next(outcomes)

    client.get_usage()
    assert [] == left(client)


def test_a_withdrawn_call_is_not_begun(client: CohortsClient) -> None:
    """Ctrl-C may come when a lane has the call, and has not come to it."""
    begun: list[object] = []

    async def work() -> None:
        """Remember it."""
        begun.append(True)

    async def withdraw_and_run(call: Call) -> None:
        """Do what the loop does, in this order."""
        call._work = work
        call._withdraw()
        await call.execute()

    call = client._bridge.call()
    client._bridge.call().run(withdraw_and_run, call)

    assert call.has_ended
    assert [] == begun


def test_a_second_one_does_not_wait(client: CohortsClient) -> None:
    """Who presses it again gets the shell back; the call ends by itself."""
    cancelled, may_end = threading.Event(), asyncio.Event()
    call = client._bridge.call()
    real = call._next

    async def stubborn() -> None:
        """Be slow to end."""
        call._thread_tasks.put(None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            await may_end.wait()
            raise

    def pressed() -> object:
        """Wait, and press it."""
        if real() is None and cancelled.is_set():
            pytest.fail("the call had ended")
        press()
        return None

    def pressed_again() -> object:
        """Press it while the end is waited for."""
        assert cancelled.wait(10)
        press()
        return None

    turns = iter([pressed, pressed_again])

    def in_turn() -> object:
        """Return what the next turn does."""
        return next(turns)()

    call._next = in_turn  # type: ignore[method-assign, assignment]

    with pytest.raises(KeyboardInterrupt):
        call.run(stubborn)

    assert not call.has_ended
    client._bridge.call().run_sync(may_end.set)
    client.get_usage()
    assert isinstance(call, Call)
    assert call.has_ended


CALLS: list[Callable[[ExportJob], object]] = [
    lambda job: job.wait(progress=True),
    lambda job: job.members(progress=True).__enter__(),
    lambda job: job.file(progress=True).__enter__(),
]


@pytest.mark.parametrize("call", CALLS, ids=["wait", "members", "file"])
@pytest.mark.parametrize("library", ["tqdm", "rich"])
def test_it_ends_the_bar(
    client: CohortsClient,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[ExportJob], object],
    library: str,
) -> None:
    """The line is left, the cursor shown, and nothing is drawn any more."""
    pytest.importorskip(library, reason="the extra progress, or cli, is not installed")
    if library == "rich":
        monkeypatch.setitem(sys.modules, "tqdm", None)
    bars: list[ProgressBar] = []
    start, screen = ProgressBar.start, io.StringIO()

    def start_and_press(bar: ProgressBar) -> None:
        """Press it in the midst of drawing, in the thread that draws."""
        bars.append(bar)
        start(bar)
        draw_dispatcher.get()(press_once)

    presses = iter([press])

    def press_once() -> None:
        """Press it the first time: what was asked for is drawn after it, too."""
        next(presses, lambda: None)()

    monkeypatch.setattr(ProgressBar, "start", start_and_press)
    monkeypatch.setattr(sys, "stderr", screen)
    job = client.request_export(COHORT)

    with pytest.raises(KeyboardInterrupt) as caught:
        call(job)

    text = screen.getvalue()
    bars[0].refresh()
    assert f"cohort {COHORT}" in text
    assert text.endswith("\n")
    assert text == screen.getvalue()
    assert job.token in caught.value.__notes__[0]
    assert [] == left(client)


def test_it_ends_the_bar_of_left_jobs(
    cohorts_emulator: CohortsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the loop over them is left."""
    cohorts_emulator.add_cohort(COHORT, size=2_000)
    monkeypatch.setitem(sys.modules, "rich", None)
    pytest.importorskip("tqdm", reason="the extra progress is not installed")
    screen = io.StringIO()

    def stop(_: object) -> None:
        """Leave it in the middle."""
        raise LookupError

    def hear(event: Event) -> None:
        """Press it as the file arrives, for the runner."""
        if isinstance(event, BytesReceived) and is_left:
            press()

    is_left = False
    with CohortsClient.from_env(clock=cohorts_emulator.clock, hook=hear) as client:
        with pytest.raises(LookupError):
            client.export(COHORT, tmp_path / "members.csv", progress=stop)

        is_left = True
        monkeypatch.setattr(sys, "stderr", screen)
        with pytest.raises(KeyboardInterrupt):
            next(client.run_jobs(progress=True))

        assert " exports" in screen.getvalue()
        assert screen.getvalue().endswith("\n")
        assert [] == left(client)
