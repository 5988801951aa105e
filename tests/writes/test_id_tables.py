"""Ids are read from a column of a table, and members from Parquet."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from amplitude_cohorts_async import IdType, diff_ids, read_ids
from amplitude_cohorts_async.errors import InvalidInputError

TABLE = 'name,"user id",age\n"Ann, ""A""",ann,1\nBob,bob,2\n\nCy,cy,3\n'


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with quotes, a comma in a cell and a blank line."""
    file = tmp_path / "users.csv"
    file.write_text(TABLE)

    return file


async def test_a_column_of_csv_is_read(table: Path):
    """By its name; on the loop and in the calling thread alike."""
    ids = read_ids(table, column="user id")

    assert ["ann", "bob", "cy"] == [id_ async for id_ in ids]
    assert ["ann", "bob", "cy"] == list(ids)
    assert 3 == len(ids)


async def test_a_column_of_gzip_is_read(tmp_path: Path):
    """A byte order mark is none of the first name."""
    file = tmp_path / "users.csv.gz"
    file.write_bytes(gzip.compress(b"\xef\xbb\xbfid\r\nann\r\nbob\r\n"))

    assert ["ann", "bob"] == [id_ async for id_ in read_ids(file, column="id")]


async def test_a_column_of_parquet_is_read(tmp_path: Path):
    """Numbers as their digits."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "users.parquet"
    parquet.write_table(arrow.table({"id": [1, 2], "name": ["a", "b"]}), file)

    assert ["1", "2"] == [id_ async for id_ in read_ids(file, column="id")]
    with pytest.raises(InvalidInputError, match=r"has no column 'x'.*'id', 'name'"):
        [id_ async for id_ in read_ids(file, column="x")]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        (TABLE, "user_id", "has no column 'user_id'; its columns are 'name'"),
        ("id,id\na,b\n", "id", "has 2 columns 'id'"),
        ("id,name\na\n", "id", "has 1 cells in line 2, and its header has 2"),
        ('id\n"a" b\n', "id", "is not CSV: line 2"),
        ("id,name\n,a\n", "id", "empty"),
        ("", "id", "has no column 'id'; its columns are none"),
    ],
)
async def test_what_is_no_such_column_is_refused(
    tmp_path: Path, text: str, column: str, message: str
):
    """With the place, and what there is."""
    file = tmp_path / "users.csv"
    file.write_text(text)

    with pytest.raises(InvalidInputError, match=message):
        [id_ async for id_ in read_ids(file, column=column)]


async def test_a_parquet_file_without_a_column_named_is_refused(tmp_path: Path):
    """With what to pass."""
    file = tmp_path / "users.parquet"
    file.write_bytes(b"PAR1 and so on")

    with pytest.raises(InvalidInputError, match=r"is a Parquet file; pass read_ids\("):
        list(read_ids(file))


async def test_a_broken_parquet_file_is_an_error_of_ours(tmp_path: Path):
    """Not one of pyarrow's."""
    pytest.importorskip("pyarrow")
    file = tmp_path / "users.parquet"
    file.write_bytes(b"PAR1 and so on")

    with pytest.raises(InvalidInputError, match="is not a Parquet file"):
        [id_ async for id_ in read_ids(file, column="id")]


async def test_members_in_parquet_are_compared(tmp_path: Path):
    """As an export writes them; those without an id are counted."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "members.parquet"
    rows = {"amplitude_id": ["1", "2", "3"], "user_id": ["ann", None, "bob"]}
    parquet.write_table(arrow.table(rows), file)

    found = await diff_ids(file, ["bob", "cy"])
    assert (["cy"], ["ann"], 1) == (found.add, found.remove, found.kept)
    assert 1 == found.unnameable

    found = await diff_ids(file, ["2"], id_type=IdType.AMPLITUDE_ID)
    assert (["1", "3"], 1) == (found.remove, found.kept)

    packed = tmp_path / "members.parquet.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    found = await diff_ids(packed, ["bob", "cy"])
    assert (["cy"], ["ann"], 1) == (found.add, found.remove, found.kept)


async def test_parquet_without_ids_is_no_file_of_members(tmp_path: Path):
    """The error says what to pass."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "table.parquet"
    parquet.write_table(arrow.table({"email": ["a"]}), file)

    with pytest.raises(InvalidInputError, match="none of the columns amplitude_id"):
        await diff_ids(file, ["bob"])


async def test_a_column_of_a_table_is_compared(table: Path):
    """The column is not lost on the way."""
    found = await diff_ids(["ann"], read_ids(table, column="user id"))

    assert (["bob", "cy"], [], 1) == (found.add, found.remove, found.kept)


async def test_a_column_of_an_open_file_is_refused(table: Path):
    """It can be read once only, and has no name."""
    with (
        table.open("rb") as file,
        pytest.raises(InvalidInputError, match="pass the path"),
    ):
        read_ids(file, column="user id")  # type: ignore[call-overload]
