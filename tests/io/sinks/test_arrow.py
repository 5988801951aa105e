"""Columns: the same members as the rows, as record batches and as a file."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.csvparse import MemberReader
from amplitude_cohorts_async._core.csvtext import CsvError
from amplitude_cohorts_async._io.sinks import arrow
from amplitude_cohorts_async.contrib.arrow import ArrowReader, record_batches
from amplitude_cohorts_async.contrib.parquet import ParquetWriter
from amplitude_cohorts_async.errors import InvalidInputError, MissingExtraError

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
parquet = pytest.importorskip("pyarrow.parquet")

HEADER = b'"amplitude_id","user_id","plan"\n'


def read(data: bytes, *, amplitude_id: str = "text") -> list[dict[str, object]]:
    """Read a file into one dict for each member."""
    reader = ArrowReader(amplitude_id=amplitude_id)
    batches = [*reader.feed(data), *reader.finish()]

    return [member for batch in batches for member in batch.to_pylist()]


def test_columns_are_text_and_only_ids_may_be_null():
    """
    An empty id is null, an empty property is empty text, "null" is a word.
    """
    data = HEADER + b'"12","","free"\n"","ann",""\n"13","null","NA"\n'

    assert [
        {"amplitude_id": "12", "user_id": None, "plan": "free"},
        {"amplitude_id": None, "user_id": "ann", "plan": ""},
        {"amplitude_id": "13", "user_id": "null", "plan": "NA"},
    ] == read(data)


def test_amplitude_ids_may_be_numbers():
    """As int64, an empty id is null and all others keep their value."""
    data = HEADER + b'"356896327775","ann",""\n"","bob",""\n'

    assert [356896327775, None] == [
        member["amplitude_id"] for member in read(data, amplitude_id="int64")
    ]


def test_groups_lose_the_tab_that_guards_them():
    """One leading TAB goes, from the header, too; an empty group is null."""
    data = b'"\tgroup_value"\n"\tAcme"\n"\t\tTab"\n"a\n\tb"\n"\t"\n""\n'

    assert ["Acme", "\tTab", "a\n\tb", None, None] == [
        member["group_value"] for member in read(data)
    ]


def test_no_column_hides_another():
    """A name that comes once more is numbered."""
    assert [{"user_id": "ann", "user_id (2)": "x", "plan": ""}] == read(
        b"user_id,user_id,plan\nann,x,\n"
    )


@given(body=st.text(st.sampled_from('ab,"\n\r\0é'), max_size=30))
def test_columns_and_rows_agree_on_every_file(body):
    """What one reads, the other reads; what one refuses, the other refuses alike."""
    data = b"amplitude_id,user_id\n" + body.encode()
    reader = MemberReader()

    try:
        batches = [*reader.feed(data), *reader.finish()]
    except CsvError as error:
        with pytest.raises(CsvError) as caught:
            read(data)
        assert str(error) == str(caught.value)
    else:
        assert [
            {"amplitude_id": member.amplitude_id, "user_id": member.user_id}
            for batch in batches
            for member in batch
        ] == read(data)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "line 1 is missing"),
        (HEADER + b'"1","a","b"\n"2","c"\n', "line 3 has 2 fields where the header"),
        (HEADER + b'"1","a","\xff"\n', "line 2 has a NUL, or bytes"),
        (HEADER + b'"1","a","b"c\n', "line 2 has a quote that is not closed, or"),
        (HEADER + b'"1","a","b\n', "line 2 begins a record with a quote never"),
        (HEADER + b'"1","a\nb",""\n"x","",""\n', "line 4 has an amplitude_id that is"),
        (HEADER + b'"9223372036854775808","",""\n', "line 2 has an amplitude_id that"),
    ],
)
def test_a_fault_is_named_with_its_line(data, fault):
    """Columns are read as strictly as rows."""
    with pytest.raises(CsvError) as caught:
        read(data, amplitude_id="int64")

    assert str(caught.value).startswith(fault)


def test_the_amplitude_id_is_text_or_a_number():
    """Anything else is refused before the first byte."""
    with pytest.raises(InvalidInputError, match="'text' or 'int64', not 'int32'"):
        ArrowReader(amplitude_id="int32")


def test_a_missing_extra_is_named(monkeypatch):
    """Without pyarrow the error says what to install."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(arrow, "import_module", missing)

    with pytest.raises(MissingExtraError, match=r"amplitude-cohorts-async\[parquet\]"):
        ParquetWriter(io.BytesIO())


async def test_a_stream_of_bytes_becomes_a_stream_of_batches():
    """Batches come while the bytes do, and none is empty."""

    async def source() -> AsyncIterator[bytes]:
        yield HEADER
        for start in range(0, 100_000, 20_000):
            yield b"".join(b'"%d","u","p"\n' % n for n in range(start, start + 20_000))

    batches = [batch.num_rows async for batch in record_batches(source())]

    assert (100_000, True) == (sum(batches), len(batches) > 1)


@pytest.mark.parametrize("size", [1, 1000, 10_000_000])
def test_a_file_holds_the_members(tmp_path: Path, size):
    """What is written in any pieces is read again, column by column."""
    count = 2_000 if size == 1 else 300_000
    data = HEADER + b"".join(b'"%d","user %d","p"\n' % (n, n) for n in range(count))

    with (tmp_path / "members.parquet").open("wb") as file:
        writer = ParquetWriter(file, amplitude_id="int64")
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
        writer.finish()

    table = parquet.read_table(tmp_path / "members.parquet")
    assert count == writer.rows == table.num_rows
    assert list(range(count)) == table.column("amplitude_id").to_pylist()
    assert [f"user {n}" for n in range(count)] == table.column("user_id").to_pylist()


def test_a_cohort_of_nobody_has_columns():
    """A header alone makes a file with columns and no rows."""
    file = io.BytesIO()
    writer = ParquetWriter(file)
    writer.write(HEADER)
    writer.finish()

    table = parquet.read_table(io.BytesIO(file.getvalue()))
    assert (0, ["amplitude_id", "user_id", "plan"]) == (
        table.num_rows,
        table.column_names,
    )


@pytest.mark.slow
def test_a_refusing_disk_is_its_own_error():
    """What the file raises comes through pyarrow; after it nothing is written."""

    class Full:
        calls = 0

        def write(self, data: bytes | memoryview, /) -> None:
            self.calls += 1
            raise OSError(28, "No space left on device")

    file = Full()
    writer = ParquetWriter(file)

    with pytest.raises(OSError, match="No space left"):
        for _ in range(100):
            writer.write(HEADER + b'"1","a","b"\n' * 100_000)
        writer.finish()

    calls = file.calls
    writer.discard()
    del writer

    assert calls == file.calls


def test_discarding_writes_nothing_more():
    """After `discard()` the file is left alone, whatever was gathered."""
    file = io.BytesIO()
    writer = ParquetWriter(file)
    writer.write(HEADER + b'"1","a","b"\n' * 1_000_000)
    size = len(file.getvalue())
    writer.discard()
    writer.discard()
    del writer

    assert size == len(file.getvalue())
