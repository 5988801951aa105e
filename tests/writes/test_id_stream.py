"""Ids from files, iterables and streams."""

from __future__ import annotations

import gzip
import io
import math
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async._core.batching import IDS_AT_ONCE
from amplitude_cohorts_async._writes.id_stream import (
    IdFile,
    IdSource,
    buffered_head,
    ids_of,
    read_ids,
)
from amplitude_cohorts_async.errors import InvalidInputError


async def read(source: IdSource) -> list[str]:
    """Read all ids, and look at the slices they come in."""
    ids: list[str] = []

    async with aclosing(ids_of(source).slices()) as slices:
        async for part in slices:
            assert len(part) <= IDS_AT_ONCE
            ids += part

    return ids


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"ann", ["ann"]),
        (b"ann\nbob\n", ["ann", "bob"]),
        (b"ann\r\nbob\r\n", ["ann", "bob"]),
        (b"\xef\xbb\xbfann\n", ["ann"]),
        (b"\n\nann\n\n\nbob\n\n", ["ann", "bob"]),
        (b"\n" * 100_000 + b"ann\n", ["ann"]),
        ("zoë\nBöb Smith\n".encode(), ["zoë", "Böb Smith"]),
        (gzip.compress(b"ann\nbob\n", mtime=0), ["ann", "bob"]),
    ],
)
async def test_a_file_has_one_id_a_line(
    tmp_path: Path, content: bytes, expected: list[str]
):
    """Whoever wrote it: Windows, a spreadsheet, gzip. Blank lines are no ids."""
    file = tmp_path / "ids.txt"
    file.write_bytes(content)

    assert expected == await read(file)
    assert expected == [id_ async for id_ in read_ids(str(file))]


def test_a_file_can_be_walked_without_a_loop(tmp_path: Path):
    """A plain loop, `len()` and `in` read it where they are."""
    file = tmp_path / "ids.txt"
    file.write_text("ann\nbob\n")

    assert ["ann", "bob"] == list(read_ids(file))
    assert 2 == len(read_ids(file))
    assert "bob" in read_ids(file)
    assert "eve" not in read_ids(file)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        list(read_ids(tmp_path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 30_000), st.integers(1, 12))
async def test_blocks_leave_no_trace(tmp_path: Path, count: int, width: int):
    """A file of any size, read in pieces, has all its ids in order."""
    file = tmp_path / "ids.txt"
    ids = [f"{number:0{width}}ü" for number in range(count)]
    file.write_text("\n".join(ids), encoding="utf-8")

    assert ids == await read(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'"amplitude_id","user_id"\n"1","ann"\n', "has columns"),
        (b"user_id,plan\nann,pro\n", "has columns"),
        ("ann\n".encode("utf-16"), "not UTF-8"),
        (b"\x1f\x8b rubbish", "cannot be read"),
        (gzip.compress(b"ann\n" * 100_000)[:-9], "cannot be read"),
        (b"ann\nb\tob\n", "id number 2 holds"),
        (b"a" * 2_000, "has 2,000 characters"),
    ],
)
async def test_another_file_is_refused(tmp_path: Path, content: bytes, reason: str):
    """The message says what it looks like, and what to do."""
    file = tmp_path / "ids.txt"
    file.write_bytes(content)

    with pytest.raises(InvalidInputError, match=reason):
        await read(file)


async def test_a_file_is_read_in_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A slow disk must not stop the loop."""
    file = tmp_path / "ids.txt"
    file.write_text("ann\n")
    threads: list[int] = []
    path_open = Path.open

    def spy(self: Path, *args: object) -> object:
        threads.append(threading.get_ident())
        return path_open(self, *args)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", spy)
    await read(file)

    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.posix
async def test_a_pipe_is_read_once(tmp_path: Path):
    """It has a path and yet no second reading; small ones are kept in memory."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("ann\nbob\n",))
    writer.start()

    async with buffered_head(ids_of(pipe)) as ids:
        assert ids.again
        for _ in range(2):
            assert [["ann", "bob"]] == [part async for part in ids.slices()]

    writer.join()


async def test_an_open_file_is_given_as_ids():
    """As standard input is; it stays open."""
    file = io.BytesIO(b"ann\nbob\n")

    assert not ids_of(read_ids(file)).again
    assert ["ann", "bob"] == await read(read_ids(file))
    assert not file.closed


async def test_long_streams_stay_streams(monkeypatch: pytest.MonkeyPatch):
    """What is longer than a request is not taken into memory; nothing is lost."""
    taken = 0

    async def stream() -> AsyncIterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    monkeypatch.setattr("amplitude_cohorts_async._writes.id_stream.MOST_IDS", 2_500)

    async with buffered_head(ids_of(stream())) as ids:
        assert not ids.again
        assert 3_000 == taken
        read = [id_ async for part in ids.slices() for id_ in part]

    assert [str(number) for number in range(10_000)] == read


async def test_a_stream_is_closed_when_its_reader_leaves():
    """A database cursor in a generator does not stay open."""
    closed: list[bool] = []

    async def stream() -> AsyncIterator[str]:
        try:
            while True:
                yield "ann"
        finally:
            closed.append(True)

    async with aclosing(ids_of(stream()).slices()) as slices:
        await anext(slices)

    assert [True] == closed


def test_a_file_says_which_it_is():
    """Its representation has the path and reads nothing."""
    assert "IdFile('/nowhere/ids.txt')" == repr(IdFile("/nowhere/ids.txt"))


class Frame:
    """A table as pandas and polars have it: walking it gives its column names."""

    columns = ("user_id", "plan")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Series(list[object]):
    """One column, as pandas and polars have it."""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Frame(), r"a Frame, a table, .* pass one column"),
        ({"ann": 1}, r"a dict, a mapping, .* pass list\(mapping\)"),
        (Counter(["ann"]), r"a Counter, a mapping, .* pass list\(mapping\)"),
        ("ann", "one text"),
        (b"ann", "one text"),
        (bytearray(b"ann"), "one text"),
        (memoryview(b"ann"), "one text"),
    ],
)
def test_what_walks_over_something_else_is_refused(source: object, reason: str):
    """Column names, keys and characters are no ids; the message says what to pass."""
    with pytest.raises(InvalidInputError, match=reason):
        ids_of(source)  # type: ignore[arg-type]


def test_an_arrow_table_is_refused():
    """So are its record batches; a column of either is taken."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"user_id": ["ann"]})

    for source in (table, *table.to_batches()):
        with pytest.raises(InvalidInputError, match="pass one column"):
            ids_of(source)


async def test_an_arrow_column_is_taken():
    """Text or whole numbers, chunked or not, and it can be read again."""
    pyarrow = pytest.importorskip("pyarrow")
    texts = pyarrow.array([f"user-{number}" for number in range(1_200)])

    assert texts.to_pylist() == await read(texts)
    assert ["ann", "bob"] == await read(pyarrow.chunked_array([["ann"], ["bob"]]))
    assert ["1", "2"] == await read(pyarrow.array([1, 2]))
    assert ids_of(texts).again
    with pytest.raises(InvalidInputError, match=r"id number 2 is missing \(None\)"):
        await read(pyarrow.array(["ann", None]))


NAType = type("NAType", (), {"__repr__": lambda _: "<NA>"})


@pytest.mark.parametrize(
    ("missing", "name"), [(None, "None"), (math.nan, "nan"), (NAType(), "<NA>")]
)
async def test_a_missing_value_is_named_as_one(missing: object, name: str):
    """Whatever stands for it in a column; the message says to leave it out."""
    with pytest.raises(
        InvalidInputError, match=rf"id number 2 is missing \({name}\); leave out"
    ):
        await read(Series(["ann", missing]))  # type: ignore[arg-type]
