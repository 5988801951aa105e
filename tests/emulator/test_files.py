"""The file of a cohort, byte for byte."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas
from amplitude_cohorts_async.testing.cohorts import (
    GeneratedMembers,
    ListedMembers,
    amplitude_id_of,
)
from amplitude_cohorts_async.testing.files import (
    Columns,
    csv_chunks,
    generated_object,
)
from amplitude_cohorts_async.testing.options import Compression
from emulator.calling import Caller, calling

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=8
)


async def text_of(caller: Caller, cohort_id: str, query: str = "") -> str:
    """Return the text of a cohort's file."""
    reply = await caller.file(await caller.export(cohort_id, query))
    assert 200 == reply.status

    return gzip.decompress(reply.body).decode()


async def test_a_file_of_users(caller: Caller, emulator: CohortsEmulator) -> None:
    """Every field in quotes, a newline at each end, no user id for the anonymous."""
    emulator.add_cohort("c1", members=[("356896327775", None), (42, 'a"b'), "ann"])

    assert (
        '"amplitude_id","user_id"\n'
        '"356896327775",""\n'
        '"42","a""b"\n'
        f'"{amplitude_id_of("ann")}","ann"\n'
    ) == await text_of(caller, "c1")


async def test_an_empty_cohort(caller: Caller, emulator: CohortsEmulator) -> None:
    """Its file is the header."""
    emulator.add_cohort("c1", members=[])

    assert '"amplitude_id","user_id"\n' == await text_of(caller, "c1")


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("", []),
        ("?props=0&propKeys=plan", []),
        ("?props=1", ["plan", "country"]),
        ("?props=1&propKeys=country&propKeys=plan", ["country", "plan"]),
        ("?props=1&propKeys=nobody%20has", ["nobody has"]),
    ],
)
async def test_properties(
    caller: Caller, emulator: CohortsEmulator, query: str, columns: list[str]
) -> None:
    """All of them, or those asked for in that order; what is missing is empty."""
    own = {"plan": "pro", "country": "Korea, Republic of\n"}
    emulator.add_cohort("c1", members=[("1", "ann", own), ("2", "bob", {})])
    rows = list(csv.reader(io.StringIO(await text_of(caller, "c1", query))))

    assert [
        ["amplitude_id", "user_id", *columns],
        ["1", "ann", *[own.get(name, "") for name in columns]],
        ["2", "bob", *[""] * len(columns)],
    ] == rows


async def test_a_file_of_groups(caller: Caller, emulator: CohortsEmulator) -> None:
    """The group stands behind a TAB, and so does its header."""
    emulator.add_cohort("g1", members=["Acme", "Globex"], group="company")

    assert '"\tgroup_value"\n"\tAcme"\n"\tGlobex"\n' == await text_of(caller, "g1")


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5, unique_by=lambda row: row[0]))
def test_any_text_survives(rows: list[tuple[str, str]]) -> None:
    """Quotes, commas and newlines come back as they were, by any reader of CSV."""
    members = ListedMembers(("1", name, {"note": note}) for name, note in rows)
    text = b"".join(csv_chunks(members, Columns(properties=("note",)))).decode()
    read = list(csv.reader(io.StringIO(text, newline="")))

    assert [["1", name, note] for name, note in rows] == read[1:]


@pytest.mark.parametrize("compress", ["gzip", "gzip-unlabelled", None])
@pytest.mark.parametrize("inline_below", [0, math.inf])
async def test_the_two_ways_of_a_file(
    compress: Compression | None, inline_below: float
) -> None:
    """Sent by the API or by the store, compressed or not, said or not."""
    async with (
        CohortsEmulator(
            clock=FakeClock(), compress=compress, inline_below=inline_below
        ) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("c1", members=["ann", "bob"])
        reply = await caller.file(await caller.export("c1"))

        if not inline_below:
            reply = await caller.fetch(reply.headers["Location"])

    body = gzip.decompress(reply.body) if compress else reply.body

    assert body.endswith(b'"bob"\n')
    assert ("gzip" if compress == "gzip" else None) == reply.headers.get(
        "Content-Encoding"
    )
    assert str(len(reply.body)) == reply.headers["Content-Length"]


async def test_the_api_does_as_accept_encoding_says(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """Who cannot read gzip is sent plain text, by the API."""
    emulator.add_cohort("c1", members=["ann"])
    path = f"/api/5/cohorts/request/{await caller.export('c1')}/file"
    headers = {"Authorization": caller.auth, "Accept-Encoding": "identity"}
    reply = await caller.send("GET", emulator.base_url + path, headers=headers)

    assert reply.body.startswith(b'"amplitude_id"')
    assert "Content-Encoding" not in reply.headers


async def test_a_job_shows_its_cohort_as_it_was(
    caller: Caller, emulator: CohortsEmulator
) -> None:
    """What is written after the request of an export is not in its file."""
    emulator.add_cohort("c1", members=["ann"])
    request_id = await caller.export("c1")
    entry = {"ids": ["bob"], "id_type": "BY_NAME", "operation": "ADD"}
    body = {"cohort_id": "c1", "memberships": [entry]}
    assert 200 == (await caller.post("/api/3/cohorts/membership", body)).status
    before = gzip.decompress((await caller.file(request_id)).body)

    assert b"bob" not in before
    assert "bob" in await text_of(caller, "c1")


# -- Generated ones ---------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "columns"),
    [
        (GeneratedMembers(size=0), Columns()),
        (GeneratedMembers(size=50_001, anonymous=7, seed=3), Columns()),
        (
            GeneratedMembers(
                size=100, properties={"a": ("1", "2"), "b": ('"', ",", "")}
            ),
            Columns(properties=("b", "c", "a")),
        ),
        (GeneratedMembers(size=30, group=True), Columns(group_header="group_value")),
    ],
)
@pytest.mark.parametrize("compress", [True, False])
def test_the_fast_way_writes_the_same(
    members: GeneratedMembers, columns: Columns, compress: bool, tmp_path: Path
) -> None:
    """
    A generated file is, byte for byte, what the plain writer makes of its members.
    """
    stored = generated_object(members, columns, compress=compress, cache_dir=tmp_path)
    assert isinstance(stored.content, Path)
    data = stored.content.read_bytes()
    text = gzip.decompress(data) if compress else data

    assert b"".join(csv_chunks(members, columns)) == text
    assert len(data) == stored.size
    assert f'"{hashlib.md5(data).hexdigest()}"' == stored.etag


def test_generated_members_are_distinct_and_some_anonymous() -> None:
    """No Amplitude id twice; every tenth has no user id; the seed changes them."""
    rows = list(GeneratedMembers(size=100_000).rows())
    others = {row[0] for row in GeneratedMembers(size=100, seed=1).rows()}

    assert 100_000 == len({row[0] for row in rows})
    assert 10_000 == sum(not row[1] for row in rows)
    assert all(row[0].isdecimal() and 12 == len(row[0]) for row in rows)
    assert not others <= {row[0] for row in rows[:100]}


@pytest.mark.slow
def test_a_generated_file_is_made_once(tmp_path: Path) -> None:
    """The second time it is found, and two that make it at once are both right."""
    members = GeneratedMembers(size=200_000)
    made: list[object] = []

    def make() -> None:
        made.append(
            generated_object(members, Columns(), compress=True, cache_dir=tmp_path)
        )

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    make()

    assert 1 == len(set(map(repr, made)))
    assert [path] == list(tmp_path.iterdir())
    assert written == path.stat().st_mtime_ns


@pytest.mark.big
async def test_two_million_users(tmp_path: Path) -> None:
    """A cohort of two million is on disk in seconds, and served from there."""
    async with (
        CohortsEmulator(
            clock=FakeClock(), quotas=Quotas.unlimited(), cache_dir=tmp_path
        ) as emulator,
        calling(emulator) as caller,
    ):
        emulator.add_cohort("2m", size=2_000_000)
        reply = await caller.fetch(await caller.link("2m"))

    assert f'"{hashlib.md5(reply.body).hexdigest()}"' == reply.headers["ETag"]
    assert 2_000_001 == gzip.decompress(reply.body).count(b"\n")


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """A file that fails half way is not there, nor is a part of it."""
    bad = GeneratedMembers(size=3, properties={"a": (1,)})  # type: ignore[dict-item]

    with pytest.raises(AttributeError):
        generated_object(
            bad, Columns(properties=("a",)), compress=True, cache_dir=tmp_path
        )

    assert [] == list(tmp_path.iterdir())
