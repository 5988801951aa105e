"""Whole exports at the emulator, whatever goes wrong at its store."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from amplitude_cohorts_async.errors import MalformedFileError
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.clients import unlimited_client
from support.exporting import names_in

COHORT = "26umsb5"
CUT = faults.cut_off(40_000)
FAULTS = {
    "cut": [CUT],
    "cut often": [faults.cut_off(9_000 * n) for n in range(1, 5)],
    "refused": [faults.refused(403, "AccessDenied"), faults.broken(503)],
    "cut, then changed": [CUT, faults.changed()],
    "cut, then grown": [CUT, faults.grown(7)],
    "cut, then shrunk": [CUT, faults.shrunk(7)],
    "cut, then shrunk to less than was there": [CUT, faults.shrunk(4_900)],
    "cut, then changed unnoticed": [
        CUT,
        faults.changed() | faults.ignores_conditions(),
    ],
    "cut, then grown unnoticed": [CUT, faults.grown() | faults.ignores_conditions()],
    "cut, then shrunk unnoticed": [
        CUT,
        faults.shrunk(2) | faults.ignores_conditions(),
    ],
    "cut, then all of it": [CUT, faults.ignores_range()],
    "cut without a tag": [CUT | faults.without_etag(), faults.changed()],
    "cut with a weak tag": [CUT | faults.wrong_etag('W/"weak"')],
    "cut with a wrong tag": [CUT | faults.wrong_etag()],
    "cut, then a wrong tag": [CUT, faults.wrong_etag()],
    "cut, then no tag": [CUT, faults.without_etag()],
    "cut without a length": [CUT | faults.with_header("Content-Length", None)],
    "lost": [faults.lost_answer()],
    "stalled": [faults.stalled(20_000)],
    "mislabelled": [faults.with_header("Content-Encoding", None)],
    "labelled as a page": [faults.with_header("Content-Type", "text/html")],
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
async def test_a_file_is_of_one_piece(
    emulator: CohortsEmulator,
    clock: FakeClock,
    *,
    tmp_path: Path,
    name: str,
    suffix: str,
) -> None:
    """
    What is saved is, to the byte, what the store has at the end; one export is spent.
    """
    emulator.add_cohort(COHORT, members=[f"user-{n}-{n * 7919}" for n in range(5_000)])
    emulator.fail_next("store", *FAULTS[name])

    async with unlimited_client(
        emulator.base_url,
        clock,
        stall_timeout=0.2,
    ) as client:
        saved = await client.export(COHORT, tmp_path / f"members.{suffix}")
        # A second one, undisturbed, tells what the store has now.
        again = await client.resume_export(saved.token).download(tmp_path / "again.csv")

    data = saved.path.read_bytes()
    text = gzip.decompress(data) if suffix.endswith("gz") else data
    assert text == again.path.read_bytes()
    assert text.count(b"\n") > 100
    assert ["again.csv", f"members.{suffix}"] == names_in(tmp_path)
    assert 1 == emulator.spent == emulator.requests("export")
    assert [] == emulator.violations


@pytest.mark.parametrize(
    "fault",
    [
        faults.torn(-1),
        faults.torn(1_000),
        faults.torn(0),
        faults.corrupt(30_000),
        faults.corrupt(2),
    ],
)
async def test_a_file_that_is_damaged_is_no_file(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path, fault: faults.Fault
) -> None:
    """
    A damaged object is an error with a token; when it is mended, the token gets it.
    """
    emulator.add_cohort(COHORT, members=[f"user-{n}-{n * 7919}" for n in range(5_000)])
    emulator.fail_next("store", fault)

    async with unlimited_client(emulator.base_url, clock) as client:
        with pytest.raises(MalformedFileError) as caught:
            await client.export(COHORT, tmp_path / "members.csv")

        assert [] == names_in(tmp_path)
        assert caught.value.token is not None
        assert COHORT == client.resume_export(caught.value.token).cohort_id


@pytest.mark.parametrize("compress", ["gzip", "gzip-unlabelled", None])
@pytest.mark.parametrize("inline_below", [0, float("inf")])
@pytest.mark.parametrize("size", [0, 1, 3_000])
async def test_every_way_a_file_may_come(
    clock: FakeClock,
    tmp_path: Path,
    *,
    compress: str | None,
    inline_below: float,
    size: int,
) -> None:
    """
    Compressed or not, labelled or not, by the service or its store: one text, its rows.
    """
    async with CohortsEmulator(
        api_key=API_KEY,
        secret_key=SECRET_KEY,
        clock=clock,
        compress=compress,  # type: ignore[arg-type]
        inline_below=inline_below,
    ) as emulator:
        emulator.add_cohort(
            COHORT,
            size=size,
            properties={"plan": ["free", 'a "b", c'], "city": ["ü\n"]},
        )

        async with unlimited_client(emulator.base_url, clock) as client:
            saved = await client.export(
                COHORT, tmp_path / "members.csv", properties=["plan", "city"]
            )
            async with client.resume_export(saved.token).members() as stream:
                members = [member async for member in stream]

        assert [] == emulator.violations

    assert size == len(members)
    assert saved.path.read_bytes().startswith(
        b'"amplitude_id","user_id","plan","city"\n'
    )
    assert all("ü\n" == member.properties["city"] for member in members)
