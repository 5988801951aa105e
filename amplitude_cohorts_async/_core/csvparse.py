"""Members from the bytes of a file, cut anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TypeAlias

import attrs

from ..models import NO_PROPERTIES, Member
from .csvtext import (
    BLOCK,
    MAX_RECORD,
    Buffer,
    CsvError,
    RecordSplitter,
    decode,
    read_columns,
    read_records,
)

# Objects created at a time: members, and the dicts of those that have properties. A
# fraction of a millisecond, and fewer than the 700 that start CPython's collector:
# the caller can choose the moment for it.
OBJECTS_AT_ONCE = 600

Columns: TypeAlias = Sequence[Sequence[str]]

_BOM = b"\xef\xbb\xbf"
_ID_COLUMNS = ("amplitude_id", "user_id", "group_value")


@attrs.frozen(kw_only=True)
class Header:
    """
    The cells of the header and the positions of the columns, from 0; None if missing.

    `properties` are all other columns with their labels, each of which is unique.
    """

    names: Sequence[str]
    amplitude_id: int | None
    user_id: int | None
    group: int | None
    properties: Sequence[tuple[int, str]]


def read_header(names: Sequence[str]) -> Header:
    """
    Return the columns by the names in a file's first record, never by their order.

    The first column of a name counts: a later "user_id", for example, is a user
    property. Properties of one name are called "plan", "plan (2)" and so on, so none
    hides another. Raises `CsvError` if no column holds ids or groups.
    """
    # The service puts a TAB before each text of group cohorts, the header's too.
    bare = [name.removeprefix("\t") for name in names]
    positions = {name: bare.index(name) for name in _ID_COLUMNS if name in bare}

    if not positions:
        raise CsvError(
            f"has {len(names)} columns, and none is called amplitude_id, user_id "
            "or group_value",
            line=1,
        )

    others = [at for at in range(len(names)) if at not in positions.values()]

    return Header(
        names=tuple(names),
        amplitude_id=positions.get("amplitude_id"),
        user_id=positions.get("user_id"),
        group=positions.get("group_value"),
        properties=tuple(
            zip(others, distinct([names[at] for at in others]), strict=True)
        ),
    )


def distinct(names: Sequence[str]) -> list[str]:
    """Return *names* with numbers added to repeated ones, so that each is unique."""
    taken = set(names)
    labels: dict[str, None] = {}  # in order, as a set is not
    # Where the search for a name's next number goes on: from 2 each time, it would be
    # quadratic, and 8,000 equal names took ten seconds.
    numbers: dict[str, int] = {}

    for name in names:
        label = name

        while label in labels or (label != name and label in taken):
            numbers[name] = numbers.get(name, 1) + 1
            label = f"{name} ({numbers[name]})"

        labels[label] = None

    return list(labels)


class MemberReader:
    """
    Reads members from bytes, cut anywhere, in batches of a fraction of a millisecond.

    The same bytes make the same members whatever the cuts; only the sizes of the
    batches differ. `rows` counts the members yielded so far.
    """

    def __init__(self, *, block: int = BLOCK, max_record: int = MAX_RECORD) -> None:
        self.rows = 0
        self._splitter = RecordSplitter(block=block, max_record=max_record)
        self._header: Header | None = None

    def feed(self, data: Buffer) -> Iterator[list[Member]]:
        """
        Yield the members that these bytes complete, or raise `CsvError` if malformed.

        Exhaust the iterator before feeding more.
        """
        return self._read(self._splitter.feed(data))

    def finish(self) -> Iterator[list[Member]]:
        """Yield the last members, or raise `CsvError` if the file ends too early."""
        yield from self._read(self._splitter.finish())

        if self._header is None:
            raise CsvError("is missing: the file is empty", line=1)

    def _read(self, blocks: Iterator[bytes]) -> Iterator[list[Member]]:
        for block in blocks:
            line, records = self._splitter.line, block

            if self._header is None:
                self._header, records = split_header(block)
                line += block.count(b"\n") - records.count(b"\n")

            if records:
                names = self._header.names
                columns = read_columns(records, len(names), line=line)
                yield from self._members(self._header, columns)

    def _members(self, header: Header, columns: Columns) -> Iterator[list[Member]]:
        step = OBJECTS_AT_ONCE // 2 if header.properties else OBJECTS_AT_ONCE

        for start in range(0, len(columns[0]), step):
            piece = [column[start : start + step] for column in columns]
            members = make_members(header, piece)
            self.rows += len(members)
            yield members


def split_header(block: bytes) -> tuple[Header, bytes]:
    """Return the header of a file's first block, and the rest of the block."""
    block = block.removeprefix(_BOM)
    text = decode(block)
    names, end = next(read_records(text, line=1))
    size = len(text[:end].encode())

    return read_header(names), block[size:]


def make_members(header: Header, columns: Columns) -> list[Member]:
    """Return the members in columns; an empty id is None, a group loses its TAB."""
    # Whole columns in one map(): the only Python code that runs for each member is
    # its constructor.
    return list(
        map(
            Member,
            _ids(header.amplitude_id, columns),
            _ids(header.user_id, columns),
            _groups(header.group, columns),
            _properties(header.properties, columns),
        )
    )


def _ids(position: int | None, columns: Columns) -> Iterable[str | None]:
    if position is None:
        return repeat(None)

    column = columns[position]

    return [cell or None for cell in column] if "" in column else column


def _groups(position: int | None, columns: Columns) -> Iterable[str | None]:
    if position is None:
        return repeat(None)

    return [cell.removeprefix("\t") or None for cell in columns[position]]


def _properties(
    labelled: Sequence[tuple[int, str]], columns: Columns
) -> Iterable[Mapping[str, str]]:
    if not labelled:
        return repeat(NO_PROPERTIES, len(columns[0]))

    labels = [label for _, label in labelled]
    cells = zip(*(columns[position] for position, _ in labelled), strict=True)

    return map(dict, map(zip, repeat(labels), cells))
