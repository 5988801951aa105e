"""
What every engine promises: workers are killed, and an export is spent once.

A new engine is a subclass of `support.engines.engine.Engine`, and a name in `conftest`.
"""

from __future__ import annotations

import asyncio

import pytest

from support.engines.dying import MOMENTS, WINDOW, Moment
from support.engines.scene import Scene
from support.engines.stores import Store

pytestmark = pytest.mark.slow

on_each_store = pytest.mark.parametrize(
    "store",
    [
        "file",
        pytest.param("valkey", marks=pytest.mark.services),
        pytest.param("postgres", marks=pytest.mark.services),
    ],
    indirect=True,
)
AWAY = 5.0


@pytest.mark.parametrize("moment", [each for each in MOMENTS if each not in WINDOW])
async def test_killed(scene: Scene, moment: Moment) -> None:
    """Another worker goes on, wherever the first one was."""
    await scene.engine.start_worker(dies=moment)
    await scene.submit()

    await scene.killed()

    await scene.ends_well()


@pytest.mark.parametrize("moment", WINDOW)
async def test_killed_between_sending_and_recording(
    scene: Scene, moment: Moment
) -> None:
    """Nobody knows whether it was spent: that is said, and it is not spent again."""
    spent = int(moment == "sent")
    await scene.engine.start_worker(dies=moment)
    await scene.submit()

    await scene.killed()

    await scene.ends_in_doubt(spent=spent)
    await scene.submit()
    await scene.ends_in_doubt(spent=spent)


async def test_two_workers_get_the_same_export(scene: Scene) -> None:
    """One of them spends it."""
    await scene.engine.start_worker()
    await scene.engine.start_worker()

    await asyncio.gather(scene.submit(), scene.submit())

    await scene.ends_well()
    await scene.submit()
    await scene.ends_well()


async def test_the_engine_restarts(scene: Scene) -> None:
    """In the middle of an export, which goes on."""
    await scene.engine.start_worker()
    await scene.submit()
    await scene.polled()

    await scene.engine.restart()
    if not scene.engine.restarts:
        await scene.submit()

    await scene.ends_well()


@on_each_store
async def test_the_store_is_away(scene: Scene, store: Store) -> None:
    """For five seconds in the middle of an export, which then goes on."""
    await scene.engine.start_worker()
    await scene.submit()
    await scene.polled()

    await store.away(AWAY)

    await scene.ends_well()
