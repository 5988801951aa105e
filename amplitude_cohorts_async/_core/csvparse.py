"""Members out of the bytes of a file, in whatever pieces the bytes come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat

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

SLICE = 600
"""
How many objects are made at a time: members, and the dicts of those that have
properties. A fraction of a millisecond, and fewer than CPython's collector
waits for (700): whoever drives a reader may choose the moment for it.
"""

_BOM = b"\xef\xbb\xbf"


@attrs.frozen(kw_only=True)
class Header:
    """
    Where the columns stand, counted from 0.

    Attributes:
        names: The cells of the header, as sent.

        amplitude_id: The column of Amplitude's ids; None when there is none.

        user_id: The column of your ids, likewise.

        group: The column of groups, likewise.

        properties: All other columns and what each is called; no name twice.
    """

    names: Sequence[str]
    amplitude_id: int | None
    user_id: int | None
    group: int | None
    properties: Sequence[tuple[int, str]]


def read_header(names: Sequence[str]) -> Header:
    """
    Tell the columns from the names in a file's first record.

    The first column of a name is the one meant. A user property may well be
    called "user_id", too: a later column of a name is a property. Properties
    of one name are called "plan", "plan (2)" and so on, so none hides another.

    Raises:
        CsvError: No column holds ids or groups.
    """
    # The service guards text of group cohorts, the header's too, with a TAB.
    bare = [name.removeprefix("\t") for name in names]
    places = {name: bare.index(name) for name in _KNOWN if name in bare}

    if not places:
        raise CsvError(
            f"has {len(names)} columns, and none is called amplitude_id, user_id "
            "or group_value",
            line=1,
        )

    others = [place for place in range(len(names)) if place not in places.values()]

    return Header(
        names=tuple(names),
        amplitude_id=places.get("amplitude_id"),
        user_id=places.get("user_id"),
        group=places.get("group_value"),
        properties=tuple(
            zip(others, distinct([names[place] for place in others]), strict=True)
        ),
    )


_KNOWN = ("amplitude_id", "user_id", "group_value")


def distinct(names: Sequence[str]) -> list[str]:
    """Number the later ones of equal names, so that each name stands once."""
    taken = set(names)
    seen: set[str] = set()
    distinct: list[str] = []

    for name in names:
        label, number = name, 2

        while label in seen or (label != name and label in taken):
            label, number = f"{name} ({number})", number + 1

        seen.add(label)
        distinct.append(label)

    return distinct


class MemberReader:
    """
    Turns bytes, cut anywhere, into batches of members.

    The same bytes make the same members whatever the cuts; only the sizes of
    the batches differ. One batch is a fraction of a millisecond's work.

    Attributes:
        rows: Members handed out so far.
    """

    def __init__(self, *, block: int = BLOCK, max_record: int = MAX_RECORD) -> None:
        self.rows = 0
        self._splitter = RecordSplitter(block=block, max_record=max_record)
        self._header: Header | None = None

    def feed(self, data: Buffer) -> Iterator[list[Member]]:
        """
        Take bytes in, and hand out the members they complete.

        Exhaust the iterator before feeding more.

        Raises:
            CsvError: The file is malformed.
        """
        return self._read(self._splitter.feed(data))

    def finish(self) -> Iterator[list[Member]]:
        """
        Take note that this was all, and hand out the last members.

        Raises:
            CsvError: The file is malformed, or ends too early.
        """
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

    def _members(
        self, header: Header, columns: Sequence[Sequence[str]]
    ) -> Iterator[list[Member]]:
        step = SLICE // 2 if header.properties else SLICE

        for start in range(0, len(columns[0]), step):
            piece = [column[start : start + step] for column in columns]
            members = make_members(header, piece)
            self.rows += len(members)
            yield members


def split_header(block: bytes) -> tuple[Header, bytes]:
    """
    Read the header that begins a file's first block; hand back the rest.

    Raises:
        CsvError: It is not a header.
    """
    block = block.removeprefix(_BOM)
    text = decode(block)
    names, end = next(read_records(text, line=1))
    size = len(text[:end].encode())

    return read_header(names), block[size:]


def make_members(header: Header, columns: Sequence[Sequence[str]]) -> list[Member]:
    """
    Make members of columns.

    An empty id is None; groups lose the one TAB that guards them.
    """
    # Whole columns into one map(): the only Python that runs once for each
    # member is its constructor.
    return list(
        map(
            Member,
            _ids(header.amplitude_id, columns),
            _ids(header.user_id, columns),
            _groups(header.group, columns),
            _properties(header.properties, columns),
        )
    )


def _ids(place: int | None, columns: Sequence[Sequence[str]]) -> Iterable[str | None]:
    if place is None:
        return repeat(None)

    column = columns[place]

    return [cell or None for cell in column] if "" in column else column


def _groups(
    place: int | None, columns: Sequence[Sequence[str]]
) -> Iterable[str | None]:
    if place is None:
        return repeat(None)

    return [cell.removeprefix("\t") or None for cell in columns[place]]


def _properties(
    places: Sequence[tuple[int, str]], columns: Sequence[Sequence[str]]
) -> Iterable[Mapping[str, str]]:
    if not places:
        return repeat(NO_PROPERTIES, len(columns[0]))

    labels = [label for _, label in places]
    cells = zip(*(columns[place] for place, _ in places), strict=True)

    return map(dict, map(zip, repeat(labels), cells))
