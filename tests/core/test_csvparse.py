"""The reader of the members' file: one meaning, whatever the cuts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.csvparse import MemberReader, distinct
from amplitude_cohorts_async._core.csvtext import (
    BLOCK,
    CsvError,
    RecordCounter,
    RecordSplitter,
    check_block,
)
from amplitude_cohorts_async.models import Member

HEADER = b'"amplitude_id","user_id"\n'

# Letters that mean something to some reader of CSV, and some that are long.
cells = st.text(st.sampled_from("ab,\"\n\r\t;' \x0b\x1c\u2028é€😀\ufeff"), max_size=6)


def read(*pieces: bytes, block: int = BLOCK, max_record: int = 1 << 20) -> list[Member]:
    """Read a file that comes in these pieces."""
    reader = MemberReader(block=block, max_record=max_record)
    members = [
        member for piece in pieces for got in reader.feed(piece) for member in got
    ]
    members += [member for got in reader.finish() for member in got]

    assert len(members) == reader.rows

    return members


def outcome(*pieces: bytes, block: int = BLOCK) -> list[Member] | str:
    """Tell the members of a file, or the fault in it."""
    try:
        return read(*pieces, block=block)
    except CsvError as error:
        return str(error)


def count(*pieces: bytes) -> int:
    """Count the members of a file that comes in these pieces."""
    counter = RecordCounter()

    for piece in pieces:
        counter.feed(piece)

    return counter.rows


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut *data* at these places, wherever they are."""
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})

    return [data[a:b] for a, b in pairwise(bounds)]


def written(rows: Iterable[Sequence[str]], *, quote_all: bool, end: str) -> bytes:
    """Write a file by RFC 4180."""

    def field(cell: str) -> str:
        bare = not quote_all and not set(cell) & set(',"\r\n')
        return cell if bare else '"' + cell.replace('"', '""') + '"'

    return "".join(",".join(map(field, row)) + end for row in rows).encode()


@given(
    rows=st.lists(st.tuples(cells, cells, cells, cells), max_size=8),
    quote_all=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    places=st.lists(st.integers(0, 10_000), max_size=12),
    block=st.integers(1, 64),
)
def test_what_is_written_is_read_whatever_the_cuts(  # noqa: PLR0917
    rows, quote_all, end, bom, places, block
):
    """A file means the same in any pieces: its rows, cell by cell."""
    header = ("amplitude_id", "user_id", "plan", 'note, "long"\n')
    data = written([header, *rows], quote_all=quote_all, end=end)
    data = b"\xef\xbb\xbf" * bom + data
    expected = [
        Member(a or None, u or None, None, {header[2]: c, header[3]: d})
        for a, u, c, d in rows
    ]

    assert expected == read(data)
    assert expected == read(*cut(data, places), block=block)
    assert expected == read(data.removesuffix(end.encode()))
    assert len(expected) == count(*cut(data, places))
    assert len(expected) == count(*cut(data.removesuffix(end.encode()), places))


@given(
    body=st.text(st.sampled_from('a,"\n\r\0é'), max_size=40),
    bad=st.sampled_from([b"", b"\xff", b"\xe2\x82"]),
    place=st.integers(0, 100),
    places=st.lists(st.integers(0, 200), max_size=8),
    block=st.integers(1, 16),
)
def test_a_fault_is_the_same_fault_whatever_the_cuts(body, bad, place, places, block):
    """Any bytes at all are members or one fault, and the pieces do not matter."""
    text = body.encode()
    place %= len(text) + 1
    data = HEADER + text[:place] + bad + text[place:]

    assert outcome(data) == outcome(*cut(data, places), block=block)


@given(body=st.text(st.sampled_from('ab,"\n\r'), max_size=30))
def test_what_is_read_is_what_the_standard_library_reads(body):
    """Where we find members, `csv.reader` finds the same cells."""
    data = HEADER + body.encode()
    found = outcome(data)

    if isinstance(found, list):
        rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        cells = [tuple(row) for row in rows][1:]
        assert cells == [(m.amplitude_id or "", m.user_id or "") for m in found]


def test_the_vendors_example():
    """Anonymous members have no user id, and no member has a property."""
    data = b'"amplitude_id","user_id"\n"356896327775",""\n"356896327776","ann"\n'

    assert [
        Member("356896327775", None),
        Member("356896327776", "ann"),
    ] == read(data)


@pytest.mark.parametrize("name", [b"group_value", b"\tgroup_value"])
def test_groups_lose_the_tab_that_guards_them(name):
    """One leading TAB is the service's; a second one is the group's own."""
    data = b'"' + name + b'"\n"\tAcme"\n"\t\tTab"\n"Bare"\n""\n'

    assert ["Acme", "\tTab", "Bare", None] == [member.group for member in read(data)]


def test_columns_are_known_by_name():
    """The columns may stand in any order, and others between them."""
    data = b"plan,user_id,amplitude_id,country\nfree,ann,1,\n"

    assert [Member("1", "ann", None, {"plan": "free", "country": ""})] == read(data)


def test_no_column_hides_another():
    """A later column of a name becomes a property, numbered where it must be."""
    data = b"user_id,user_id,plan,plan,plan (2),plan\nann,x,1,2,3,4\n"
    properties = {"user_id": "x", "plan": "1", "plan (3)": "2", "plan (2)": "3"}

    assert [Member(None, "ann", None, {**properties, "plan (4)": "4"})] == read(data)


def test_a_header_alone_is_an_empty_cohort():
    """A cohort nobody is in has a file of one line."""
    assert [] == read(HEADER)
    assert [] == read(HEADER.rstrip())


def test_the_last_row_needs_no_newline():
    """One row without a newline at the end is a row."""
    assert [Member("1", "ann")] == read(HEADER + b'"1","ann"')


def test_a_field_may_be_longer_than_the_standard_library_allows():
    """A long property is read; `csv.field_size_limit()` is nobody's promise."""
    note = 'a "quoted" \n' * 20_000
    data = written([("user_id", "note"), ("ann", note)], quote_all=True, end="\n")

    assert [Member(None, "ann", None, {"note": note})] == read(*cut(data, [1000]))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "line 1 is missing: the file is empty"),
        (b"\xef\xbb\xbf", "line 1 is empty"),
        (b"<html>\n", "line 1 has 1 columns, and none is called"),
        (b"a,b\n1,2\n", "line 1 has 2 columns, and none is called"),
        (HEADER + b'"1","ann"\n"2"\n', "line 3 has 1 fields where the header has 2"),
        (HEADER + b'"1","a","b"\n', "line 2 has 3 fields where the header has 2"),
        (HEADER + b'"1","ann"\n\n', "line 3 is empty"),
        (HEADER + b'"1","a\nb\n', "line 2 begins a record with a quote never closed"),
        (HEADER + b'"1","a"b"c"\n', "line 2 has a quote that is not closed, or text"),
        (HEADER + b'"1\n","a"b\n', "line 3 has a quote that is not closed, or text"),
        (HEADER + b'1,a"b"\n', "line 2 has a quote or a carriage return"),
        (HEADER + b"1,a\rb\n", "line 2 has a quote or a carriage return"),
        (HEADER + b'"1","a\0"\n', "line 2 has a NUL, or bytes that are not UTF-8"),
        (HEADER + b'"1","\xe9"\n', "line 2 has a NUL, or bytes that are not UTF-8"),
    ],
)
def test_a_fault_is_named_with_its_line(data, fault):
    """What is wrong, and where; never a cell."""
    with pytest.raises(CsvError) as caught:
        read(data)

    assert str(caught.value).startswith(fault)


def test_an_unclosed_quote_does_not_eat_the_memory():
    """A record longer than the bound is refused before the file has ended."""
    reader = MemberReader(block=100, max_record=1000)
    list(reader.feed(HEADER + b'"1","'))

    with pytest.raises(CsvError, match="line 2 begins a record of more than 1000"):
        list(reader.feed(b"ann\n" * 1000))


def test_blocks_are_small_whatever_comes_in():
    """A megabyte fed at once is handed out in blocks of a bounded size."""
    splitter = RecordSplitter(block=1000)
    blocks = list(splitter.feed(b'"1","ann"\n' * 100_000))

    assert 1_000_000 == sum(map(len, blocks))
    assert 1010 >= max(map(len, blocks))


def test_a_file_without_a_byte_has_no_rows_to_count():
    """Neither nothing nor a header alone holds a member."""
    assert (0, 0, 0) == (count(), count(b""), count(HEADER.rstrip()))


def test_a_block_is_checked_to_its_fault():
    """Records before the fault are passed over, and counted."""
    check_block(b'a,"b"\n"c","d ""e"""\n', 2, line=5)

    with pytest.raises(CsvError, match="quote") as caught:
        check_block(b'a,b\nc,d\n"e,f\n', 2, line=5)

    assert 7 == caught.value.line


class Counted(str):
    """A name that counts how often it is put before a number."""

    __slots__ = ()
    formatted = 0

    def __format__(self, spec: str) -> str:
        Counted.formatted += 1
        return str(self)


def test_equal_names_are_told_apart_in_linear_time() -> None:
    """Each label is tried once: 8,000 equal names took ten seconds."""
    names = [*([Counted("plan")] * 2_000), *(f"plan ({n})" for n in range(2_000))]
    labels = distinct(names)

    assert len(names) == len(set(labels))
    assert Counted.formatted < 2 * len(names)
