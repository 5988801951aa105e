"""
The file of a cohort: CSV as the vendor writes it, and as the store holds it.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import attrs

from .answers import FileBody
from .members import Members, Row

__all__ = (
    "Columns",
    "StoredObject",
    "compressed",
    "csv_chunks",
    "header",
    "in_memory",
    "line",
)

_ROWS_A_CHUNK = 20_000


@attrs.frozen(kw_only=True)
class Columns:
    """
    What a file shows.

    Attributes:
        group_header: The header of a file of groups; None in one of users.

        properties: The properties, in the order of their columns.
    """

    group_header: str | None = None
    properties: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class StoredObject:
    """
    An object in the store, in memory or on disk.

    Attributes:
        etag: Strong, quotes included.
    """

    content: bytes | Path = attrs.field(repr=False)
    size: int
    etag: str

    def part(self, start: int, stop: int) -> bytes | FileBody:
        """
        Return the bytes from *start* to *stop*.
        """
        if isinstance(self.content, Path):
            return FileBody(self.content, start, stop)

        return self.content[start:stop]


def in_memory(data: bytes) -> StoredObject:
    """
    Return *data* as an object; its tag is its MD5, as in the store.
    """
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()

    return StoredObject(content=data, size=len(data), etag=f'"{digest}"')


def compressed(chunks: Iterable[bytes]) -> bytes:
    """
    Return the gzip form of *chunks*, the same for the same text.
    """
    target = BytesIO()

    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=1, mtime=0) as file:
        for chunk in chunks:
            file.write(chunk)

    return target.getvalue()


def header(columns: Columns) -> bytes:
    """
    Return the first line.
    """
    ids = ["amplitude_id", "user_id"]

    if columns.group_header is not None:
        ids = [columns.group_header]

    return line([*ids, *columns.properties]).encode()


def csv_chunks(members: Members, columns: Columns) -> Iterator[bytes]:
    """
    Write the file: every field in quotes, ``\\n`` at each end of line.

    A property that a member lacks is an empty field, as an anonymous
    member's user id is.
    """
    yield header(columns)
    lines: list[str] = []

    for row in members.rows():
        lines.append(line(_fields(row, columns)))

        if len(lines) == _ROWS_A_CHUNK:
            yield "".join(lines).encode()
            lines.clear()

    yield "".join(lines).encode()


def _fields(row: Row, columns: Columns) -> list[str]:
    amplitude_id, name, properties = row
    values = [properties.get(key, "") for key in columns.properties]

    # Groups are written behind a TAB, against formulas in spreadsheets.
    if columns.group_header is not None:
        return ["\t" + name, *values]

    return [amplitude_id, name, *values]


def line(fields: Iterable[str]) -> str:
    """
    Write one line.
    """
    quoted = ('"' + field.replace('"', '""') + '"' for field in fields)

    return ",".join(quoted) + "\n"
