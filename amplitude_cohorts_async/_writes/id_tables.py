"""
Reads one column of a table in a file: CSV, gzip too, or Parquet.

Everything here blocks: call it in a worker thread.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from .._core.batching import IDS_AT_ONCE
from .._io.sinks.arrow import require_arrow
from ..errors import InvalidInputError
from ..models import Member

__all__ = ("PARQUET", "is_parquet", "parquet_members", "slices_of_column")

PARQUET = b"PAR1"
"""What a Parquet file begins with."""

_IDS = ("amplitude_id", "user_id", "group_value")


def slices_of_column(
    file: BinaryIO, path: Path, column: str
) -> Generator[Sequence[object]]:
    """
    Yield the cells of one column, at most `IDS_AT_ONCE` at a time.

    Raises:
        InvalidInputError: There is no such column, or the file is no table.
        MissingExtraError: It is a Parquet file, and pyarrow is not installed.
    """
    if is_parquet(file):
        for batch in _batches(file, path, [column]):
            yield batch.column(0).to_pylist()
        return

    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        try:
            none: list[str] = []
            names = next(rows, none)
            place = _only_place(names, column, path)
            cells = _cells(rows, place, len(names), path)
            while part := list(islice(cells, IDS_AT_ONCE)):
                yield part
        except csv.Error as error:
            raise InvalidInputError(
                f"{path} is not CSV: line {rows.line_num}: {error}"
            ) from error


def parquet_members(file: BinaryIO, path: Path) -> Generator[list[Member]]:
    """
    Yield the members of a Parquet file that an export wrote, without properties.

    Raises:
        InvalidInputError: It has none of an export's columns of ids.
        MissingExtraError: pyarrow is not installed.
    """
    for batch in _batches(file, path, None):
        columns = [
            batch.column(name).to_pylist()
            if name in batch.schema.names
            else [None] * batch.num_rows
            for name in _IDS
        ]
        yield [
            Member(amplitude_id=_text(amplitude), user_id=_text(user), group=group)
            for amplitude, user, group in zip(*columns, strict=True)
        ]


def is_parquet(file: BinaryIO) -> bool:
    """Whether a file begins as Parquet does; it can be read from its begin afterwards."""
    peek = getattr(file, "peek", None)

    return peek is not None and bytes(peek(len(PARQUET))).startswith(PARQUET)


def _batches(file: BinaryIO, path: Path, columns: list[str] | None) -> Iterator[Any]:
    arrow = require_arrow()
    parquet = import_module("pyarrow.parquet")

    try:
        table = parquet.ParquetFile(file)
        names = list(table.schema_arrow.names)
        if columns is None:
            columns = [name for name in _IDS if name in names]
            if not columns:
                raise InvalidInputError(
                    f"{path} is not a file of members: it has none of the columns "
                    f"{', '.join(_IDS)}; pass read_ids(path, column=...)"
                )
        else:
            _only_place(names, columns[0], path)
        yield from table.iter_batches(batch_size=IDS_AT_ONCE, columns=columns)
    except (arrow.ArrowException, arrow.ArrowInvalid) as error:
        raise InvalidInputError(f"{path} is not a Parquet file: {error}") from error


def _only_place(names: Sequence[str], column: str, path: Path) -> int:
    match names.count(column):
        case 1:
            return names.index(column)
        case 0:
            shown = ", ".join(map(repr, names[:20])) or "none"
            raise InvalidInputError(
                f"{path} has no column {column!r}; its columns are {shown}"
            )
        case count:
            raise InvalidInputError(
                f"{path} has {count} columns {column!r}; rename all but one"
            )


def _cells(rows: Any, place: int, width: int, path: Path) -> Iterator[str]:
    for row in rows:
        # A blank line is no record.
        if not row:
            continue
        if len(row) != width:
            raise InvalidInputError(
                f"{path} has {len(row)} cells in line {rows.line_num}, and its header "
                f"has {width}"
            )
        yield row[place]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
