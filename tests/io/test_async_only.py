"""What a forgotten `async` or `await` is answered with."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY


async def async_for(value: Any) -> None:
    """Loop over it as over a stream."""
    async for _ in value:
        break


def plain_for(value: Any) -> None:
    """Loop over it as over a list."""
    for _ in value:
        break


def plain_with(value: Any) -> None:
    """Enter it as a file."""
    with value:
        pass


async def awaited(value: Any) -> None:
    """Wait for it as for a call."""
    await value


USES: dict[str, Callable[[Any], Any]] = {
    "async for": async_for,
    "for": plain_for,
    "with": plain_with,
    "await": awaited,
}


@pytest.mark.parametrize(
    ("name", "use", "hint"),
    [
        ("client", "with", "async with CohortsClient(...) as client:"),
        ("client", "await", "async with CohortsClient(...) as client:"),
        ("many", "for", "async for outcome in client.export_many(...):"),
        ("many", "with", "async for outcome in client.export_many(...):"),
        ("many", "await", "async for outcome in client.export_many(...):"),
        ("members", "async for", "async with job.members() as members:"),
        ("members", "for", "async with job.members() as members:"),
        ("members", "with", "async with job.members() as members:"),
        ("members", "await", "async with job.members() as members:"),
        ("batches", "async for", "async with job.record_batches() as batches:"),
        ("slot", "with", "async with client.slot():"),
        ("stream", "for", "async for member in members:"),
        ("stream", "await", "async for member in members:"),
    ],
)
async def test_a_use_without_async_is_told_what_to_write(
    client: CohortsClient,
    emulator: CohortsEmulator,
    name: str,
    use: str,
    hint: str,
) -> None:
    """Python's own error would name a class, and nothing to do."""
    emulator.add_cohort("c1", members=["ann"])
    job = await client.request_export("c1")

    async with job.members() as stream:
        value = {
            "client": lambda: client,
            "many": lambda: client.export_many(["c1"], "."),
            "members": job.members,
            "batches": job.record_batches,
            "slot": client.slot,
            "stream": lambda: stream,
        }[name]()

        with pytest.raises(TypeError) as raised:
            pending = USES[use](value)
            await pending

    assert f"write `{hint}`" == str(raised.value)


async def test_a_client_that_was_not_closed_is_named(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """Not only its session, of which its author may never have heard."""
    client = CohortsClient(API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock)
    await client.list_cohorts()
    built = client._operations

    with pytest.warns(ResourceWarning, match=r"CohortsClient of .* was never closed"):
        del client
        gc.collect()

    await built.aclose()


async def test_a_closed_client_is_not_named(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """Nor one that never connected, nor one that was refused an argument."""
    client = CohortsClient(API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock)
    await client.list_cohorts()
    await client.aclose()
    unused = CohortsClient(API_KEY, SECRET_KEY, base_url=emulator.base_url)

    del client, unused
    gc.collect()
