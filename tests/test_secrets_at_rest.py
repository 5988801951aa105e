"""
A secret is in no file that a client writes, whatever wrote it.

What keeps something new gets a line in `KEEPERS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, IdType
from amplitude_cohorts_async.errors import CohortsError
from amplitude_cohorts_async.limits import UNLIMITED
from amplitude_cohorts_async.policies import Retrying
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY, find_secrets
from support.clients import unlimited_client
from support.exporting import (
    ETAG,
    EXPORT,
    GZIP,
    LINK,
    OBJECT,
    REQUEST,
    RUNNING,
    STATUS,
    cut,
)
from support.fault_server import FaultServer, json_reply

COHORT = "26umsb5"
IDS = ["ann", "bob", "eve"]

Work = Callable[[CohortsClient, Path], Awaitable[object]]


async def export_many(client: CohortsClient, folder: Path) -> None:
    """Export into a directory, and again without need."""
    for _ in range(2):
        async for _outcome in client.export_many([COHORT, "nobody"], folder):
            pass


KEEPERS: dict[str, Work] = {
    "a journal": lambda client, folder: client.upload_cohort(
        "Buyers", IDS, id_type=IdType.USER_ID, journal=folder / "journal"
    ),
    "a journal of changes": lambda client, folder: client.update_membership(
        COHORT, add=["bob"], journal=folder / "journal"
    ),
    "a comparison": lambda client, folder: client.sync_membership(
        COHORT, IDS, on_disk=folder
    ),
    "a directory": export_many,
    "a manifest": lambda client, folder: client.export(
        COHORT, folder / "members.csv", manifest=True
    ),
    "a compressed file": lambda client, folder: client.export(
        COHORT, folder / "members.csv.gz"
    ),
}


def secrets_below(folder: Path) -> list[str]:
    """Search the bytes of all files, and their names."""
    found: list[str] = []

    for path in folder.rglob("*"):
        data = path.read_bytes().decode("latin-1") if path.is_file() else ""
        found += [f"{path.name}: {each}" for each in find_secrets(f"{path} {data}")]

    return found


@pytest.mark.parametrize("name", KEEPERS)
async def test_no_file_holds_a_secret(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path, name: str
) -> None:
    """Neither what was asked for, nor the store of the exports beside it."""
    emulator.add_cohort(COHORT, members=["ann"])

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        app_id=153957,
        owner="ann@example.com",
        jobs=tmp_path / "exports.db",
    ) as client:
        await KEEPERS[name](client, tmp_path)

    assert any(tmp_path.iterdir())
    assert [] == secrets_below(tmp_path)


async def test_what_a_failure_leaves_holds_no_secret(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """A part of a file, its record, and the store of an export that goes on."""
    server.on(OBJECT, cut(len(GZIP) // 2, etag=ETAG))
    options = {"base_url": server.url, "clock": clock, "limits": UNLIMITED}

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        **options,  # type: ignore[arg-type]
        retrying=Retrying(attempts=1),
        jobs=tmp_path / "exports.db",
    ) as client:
        with pytest.raises(CohortsError):
            await client.export(COHORT, tmp_path / "members.csv.gz")

        server.on(STATUS, RUNNING)
        with pytest.raises(CohortsError):
            await client.resume_export(REQUEST).download(
                tmp_path / "other.csv", timeout=1
            )

        records = await client.jobs()

    assert [] == secrets_below(tmp_path)
    assert [] == find_secrets(repr(records))
    assert LINK.encode() not in (tmp_path / "exports.db").read_bytes()


async def test_a_key_that_a_service_echoes_as_an_id_is_not_kept(
    server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """It is hidden in the answer, before anything is made of it."""
    server.on(EXPORT, json_reply({"request_id": SECRET_KEY, "cohort_id": COHORT}, 202))

    async with unlimited_client(
        server.url,
        clock,
        jobs=tmp_path / "exports.db",
    ) as client:
        job = await client.request_export(COHORT)

    assert [] == find_secrets(job.token)
    assert [] == secrets_below(tmp_path)
