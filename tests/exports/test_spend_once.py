"""
Exports that need not be spent are not: those that run already, and those of
cohorts that did not change.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from amplitude_cohorts_async import CohortsClient, SavedExport
from amplitude_cohorts_async.errors import ExportTimeoutError
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY
from support.limiters import PlaceLosing

LONG_AGO = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@pytest.fixture(autouse=True)
def cohort(emulator: CohortsEmulator) -> None:
    """A cohort of two."""
    emulator.add_cohort("c1", members=["ann", "bob"])


async def test_the_same_export_asked_for_at_once_is_requested_once(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """Five callers of one export get five files and spend one export."""
    targets = [tmp_path / f"{number}.csv" for number in range(5)]

    saved = await asyncio.gather(*(client.export("c1", to) for to in targets))

    assert 1 == emulator.spent
    assert 1 == len({each.token for each in saved})
    assert 1 == len({path.read_bytes() for path in targets})


async def test_two_clients_of_an_app_join_each_other(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The app is what counts, not the client."""
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock
    ) as other:
        await asyncio.gather(
            client.export("c1", tmp_path / "a.csv"),
            other.export("c1", tmp_path / "b.csv"),
        )

    assert 1 == emulator.spent


async def test_other_properties_are_another_export(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """What is joined holds the same columns."""
    await asyncio.gather(
        client.export("c1", tmp_path / "a.csv"),
        client.export("c1", tmp_path / "b.csv", properties=True),
    )

    assert 2 == emulator.spent


async def test_an_export_after_the_last_is_a_new_one(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """What is over is not joined: its members may be old."""
    await client.export("c1", tmp_path / "a.csv")
    await client.export("c1", tmp_path / "b.csv")

    assert 2 == emulator.spent


async def test_an_export_that_was_given_up_is_joined_while_it_runs(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """After a deadline the next caller waits for the same job."""
    emulator.add_cohort("c2", members=["ann"], job_seconds=100)

    with pytest.raises(ExportTimeoutError) as caught:
        await client.export("c2", tmp_path / "a.csv", timeout=11)

    saved = await client.export("c2", tmp_path / "a.csv")

    assert 1 == emulator.spent
    assert caught.value.token == saved.token


async def test_an_export_cancelled_while_it_was_requested_is_joined(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """The answer to a cancelled request is still read: the export is not lost."""
    asked = asyncio.Event()

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        hook=lambda _: asked.set(),
    ) as client:
        task = asyncio.create_task(client.export("c1", tmp_path / "a.csv"))

        while not emulator.requests("export"):  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert asked.is_set()

        await client.export("c1", tmp_path / "a.csv", timeout=60)

    assert 1 == emulator.spent
    assert 2 == len((tmp_path / "a.csv").read_text().splitlines()) - 1


async def test_a_cohort_that_did_not_change_costs_one_list(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """An earlier export that is still right is returned again."""
    earlier = await client.export("c1", tmp_path / "c1.csv")
    again = await client.export("c1", earlier.path, if_changed_since=earlier)

    assert again.unchanged
    assert earlier.sha256 == again.sha256
    assert (1, 1) == (emulator.spent, emulator.requests("list"))


async def test_a_cohort_that_was_computed_since_is_exported(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """A later `lastComputed` is a reason to spend."""
    earlier = await client.export("c1", tmp_path / "c1.csv")
    clock.advance(10)
    emulator.add_cohort("c1", members=["ann", "bob", "eve"])

    again = await client.export("c1", earlier.path, if_changed_since=earlier)

    assert not again.unchanged
    assert 2 == emulator.spent
    assert "eve" in earlier.path.read_text()


@pytest.mark.parametrize(
    "overrides",
    [
        {"lastComputed": None, "lastMod": LONG_AGO},
        {"lastComputed": LONG_AGO, "lastMod": 4_000_000_000},
    ],
)
async def test_what_the_list_leaves_open_counts_as_changed(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    overrides: dict[str, object],
) -> None:
    """A cohort never computed, or with a definition changed later, is exported."""
    earlier = await client.export("c1", tmp_path / "c1.csv")
    emulator.add_cohort("c1", members=["ann"], overrides=overrides)

    await client.export("c1", earlier.path, if_changed_since=earlier)

    assert 2 == emulator.spent


@pytest.mark.parametrize("spoil", ["remove", "edit", "token only"])
async def test_a_file_that_is_gone_comes_again_from_the_earlier_job(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, spoil: str
) -> None:
    """The service keeps a job's file for seven days, and asking for it is free."""
    earlier: SavedExport | str = await client.export("c1", tmp_path / "c1.csv")
    content = (tmp_path / "c1.csv").read_bytes()

    if spoil == "remove":
        (tmp_path / "c1.csv").unlink()
    elif spoil == "edit":
        (tmp_path / "c1.csv").write_bytes(content.swapcase())
    else:
        earlier = attrs.evolve(earlier).token

    again = await client.export("c1", tmp_path / "c1.csv", if_changed_since=earlier)

    assert again.unchanged
    assert content == (tmp_path / "c1.csv").read_bytes()
    assert 1 == emulator.spent


async def test_an_earlier_export_of_other_properties_is_no_help(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
) -> None:
    """An earlier file without the wanted columns is not what was asked for."""
    earlier = await client.export("c1", tmp_path / "c1.csv")

    await client.export(
        "c1", earlier.path, properties=["plan"], if_changed_since=earlier
    )

    assert 2 == emulator.spent


async def test_an_export_whose_place_was_lost_is_not(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> None:
    """What was bought is kept, whatever the limiter says afterwards."""
    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        limiter=PlaceLosing("export", clock=clock),
    ) as client:
        await client.export("c1", tmp_path / "c1.csv")

    assert 1 == emulator.spent
    assert "ann" in (tmp_path / "c1.csv").read_text()


async def test_closing_waits_for_what_was_paid_for(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """A client that is closed while an export is requested reads the answer first."""
    emulator.add_cohort("c1", members=["ann"])
    client = CohortsClient(API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock)
    task = asyncio.create_task(client.request_export("c1"))

    while not emulator.requests("export"):  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0)
    await client.aclose()

    assert (await task).request_id
    assert 1 == emulator.spent
