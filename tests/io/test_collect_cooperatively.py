"""Long work on the loop: in slices, and without waking the collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from amplitude_cohorts_async._io import cancellation
from amplitude_cohorts_async._io.cancellation import collect_cooperatively


def containers(number: int) -> Iterator[list[list[int]]]:
    """Make objects that the collector has to look after, thirty at a time."""
    for each in range(number):
        yield [[each] for _ in range(29)]


@contextmanager
def generations() -> Iterator[set[int]]:
    """Note which generations were collected meanwhile."""
    seen: set[int] = set()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.add(info["generation"])

    gc.callbacks.append(note)

    try:
        yield seen
    finally:
        gc.callbacks.remove(note)


async def test_all_is_collected_in_order() -> None:
    """What comes out is what the iterator made."""
    assert list(containers(100)) == await collect_cooperatively(containers(100))


async def test_the_old_are_left_alone() -> None:
    """However much is made, the whole program's heap is never gone through."""
    with generations() as seen:
        found = await collect_cooperatively(containers(5_000))

    assert 5_000 == len(found)
    assert {0} == seen


async def test_a_collector_that_is_off_stays_off() -> None:
    """Whoever switched it off gets no collection from us."""
    gc.disable()

    try:
        with generations() as seen:
            await collect_cooperatively(containers(1_000))
    finally:
        gc.enable()

    assert set() == seen


async def test_others_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each millisecond of work is followed by a turn for the other tasks."""
    now = count(step=0.0005)
    clock = SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr(cancellation, "time", clock)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(take_turns)
        await collect_cooperatively(iter(range(100)))
        group.cancel_scope.cancel()

    assert 30 <= turns
