"""
Members as Arrow record batches and as a Parquet file; needs the extra ``parquet``.

Columns are what a dataframe wants: no object is made for a member.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias

import anyio
import anyio.to_thread
import attrs

from ..._core.csvparse import Header, distinct, split_header
from ..._core.csvtext import (
    Buffer,
    CsvError,
    RecordSplitter,
    check_block,
    decode,
    read_records,
)
from ...errors import InvalidInputError, MissingExtraError

AmplitudeId: TypeAlias = Literal["text", "int64"]
"""The type of the column of Amplitude's ids: text, as everywhere else, or numbers."""

_BATCH_SIZE = 512 * 1024
"""
Bytes of CSV for one record batch: with fewer, pyarrow's fixed costs show (three
times the time at 64 KiB); more only take memory.
"""

_ROW_GROUP_SIZE = 4 * 1024 * 1024
"""
Bytes of columns in one row group, some 100,000 members: as many are in memory,
and about as many again while they are written.
"""

_BUFFER_SIZE = 256 * 1024

_UNIQUE_COLUMNS = ("amplitude_id", "user_id", "group_value")


class Schema(Protocol):
    """The used part of a ``pyarrow.Schema``; pyarrow ships no types."""

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        ...


class RecordBatch(Protocol):
    """The used part of a ``pyarrow.RecordBatch``; pyarrow ships no types."""

    @property
    def num_rows(self) -> int:
        """Number of members."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its columns take."""
        ...

    @property
    def schema(self) -> Schema:
        """Names and types of its columns."""
        ...

    def to_pylist(self) -> list[dict[str, object]]:
        """Return a dict for each member."""
        ...


class ArrowReader:
    """
    Turns bytes, cut anywhere, into record batches of some 15,000 members.

    The columns are the file's, in its order: text, except for Amplitude's ids if
    *amplitude_id* is "int64". Empty ids and groups are null, empty properties are
    empty text. Groups lose the one TAB that guards them. A repeated name is
    numbered, as in "plan (2)".

    Every call blocks: make it in a worker thread. It holds the interpreter for a
    millisecond at a time, and releases it while pyarrow works.

    Raises:
        InvalidInputError: *amplitude_id* is something else.
        MissingExtraError: pyarrow is not installed.

    Attributes:
        rows: Members yielded so far.
    """

    def __init__(self, *, amplitude_id: AmplitudeId = "text") -> None:
        if amplitude_id not in ("text", "int64"):
            raise InvalidInputError(
                f"amplitude_id is 'text' or 'int64', not {amplitude_id!r}"
            )

        self.rows: int = 0
        self._is_integer = amplitude_id == "int64"
        self._splitter = RecordSplitter()
        self._columns: _Columns | None = None
        self._checked: list[bytes] = []
        self._size = 0
        self._line = 1
        require_arrow()

    @property
    def schema(self) -> Schema:
        """The columns; known after the first batch, or the end of `finish()`."""
        if self._columns is None:
            raise RuntimeError("the header has not been read yet")

        return self._columns.schema()

    def feed(self, data: Buffer) -> Iterator[RecordBatch]:
        """
        Yield the batches that *data* completes.

        Exhaust the iterator before feeding more.

        Raises:
            CsvError: The file is malformed.
        """
        with self._earliest_error():
            for block in self._splitter.feed(data):
                self._check(block)

                if self._size >= _BATCH_SIZE:
                    yield self._convert()

    def finish(self) -> Iterator[RecordBatch]:
        """
        Yield the last batch.

        Raises:
            CsvError: The file is malformed, or ends too early.
        """
        with self._earliest_error():
            for block in self._splitter.finish():
                self._check(block)

        if self._columns is None:
            raise CsvError("is missing: the file is empty", line=1)

        if self._checked:
            yield self._convert()

    @contextmanager
    def _earliest_error(self) -> Generator[None]:
        try:
            yield
        except CsvError:
            # The blocks held back come first, and pyarrow has not read them yet.
            if self._checked:
                self._convert()
            raise

    def _check(self, block: bytes) -> None:
        line, records = self._splitter.line, block

        if self._columns is None:
            header, records = split_header(block)
            line += block.count(b"\n") - records.count(b"\n")
            self._columns = _columns_of(header, is_integer=self._is_integer)

        if records:
            check_block(records, len(self._columns.names), line=line)
            self._line = self._line if self._checked else line
            self._checked.append(records)
            self._size += len(records)

    def _convert(self) -> RecordBatch:
        columns = self._columns
        assert columns is not None  # noqa: S101 - no block is checked before it

        block = b"".join(self._checked)
        self._checked, self._size = [], 0
        batch = columns.convert(block, line=self._line)
        self.rows += batch.num_rows

        return batch


async def record_batches(
    source: AsyncIterator[Buffer], *, amplitude_id: AmplitudeId = "text"
) -> AsyncIterator[RecordBatch]:
    """
    Yield the record batches of a stream of bytes, made off the event loop.

    Raises:
        CsvError: The file is malformed.
    """
    reader = ArrowReader(amplitude_id=amplitude_id)
    thread = anyio.CapacityLimiter(1)

    async for data in source:
        for batch in await anyio.to_thread.run_sync(
            list, reader.feed(data), limiter=thread
        ):
            yield batch

    for batch in await anyio.to_thread.run_sync(list, reader.finish(), limiter=thread):
        yield batch


@attrs.frozen(kw_only=True)
class _Columns:
    # The type of each column, and pyarrow's CSV reader set up for them.
    names: Sequence[str]
    nullable: Sequence[int]
    integer: int | None
    group: int | None

    def schema(self) -> Schema:
        schema: Schema = require_arrow().schema(
            zip(self.names, self._types(), strict=True)
        )

        return schema

    def convert(self, block: bytes, *, line: int) -> RecordBatch:
        arrow = require_arrow()

        try:
            table = self._read(block)
        except arrow.ArrowInvalid as error:
            raise self._error(block, line=line) from error

        arrays = [
            self._finished(index, column.chunk(0))
            for index, column in enumerate(table.columns)
        ]
        batch: RecordBatch = arrow.RecordBatch.from_arrays(arrays, schema=self.schema())

        return batch

    def _types(self) -> list[object]:
        arrow = require_arrow()

        return [
            arrow.int64() if index == self.integer else arrow.string()
            for index in range(len(self.names))
        ]

    def _read(self, block: bytes) -> Any:
        csv = import_module("pyarrow.csv")
        keys = [str(index) for index in range(len(self.names))]

        return csv.read_csv(
            require_arrow().py_buffer(block),
            read_options=csv.ReadOptions(
                # One chunk, and no thread but this one.
                use_threads=False,
                block_size=len(block) + 1,
                column_names=keys,
            ),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict(zip(keys, self._types(), strict=True)),
                null_values=[""],
            ),
            memory_pool=_pool(),
        )

    def _finished(self, index: int, array: Any) -> Any:
        compute = import_module("pyarrow.compute")

        if index == self.group:
            array = compute.replace_substring_regex(
                array, r"\A\t", "", memory_pool=_pool()
            )

        return _empty_to_null(array) if index in self.nullable else array

    def _error(self, block: bytes, *, line: int) -> CsvError:
        # `read_records()` raises what is wrong with the text; else it is a number.
        text = decode(block)

        for record, end in read_records(text, len(self.names), line=line):
            if self.integer is not None and not _is_int64(record[self.integer]):
                inside = sum(cell.count("\n") for cell in record)
                return CsvError(
                    "has an amplitude_id that is no 64-bit integer; take it as text",
                    line=line + text.count("\n", 0, end) - inside - 1,
                )

        return CsvError("begins records that pyarrow cannot read", line=line)


def _columns_of(header: Header, *, is_integer: bool) -> _Columns:
    ids = (header.amplitude_id, header.user_id, header.group)
    integer = header.amplitude_id if is_integer else None

    return _Columns(
        names=distinct([name.removeprefix("\t") for name in header.names]),
        nullable=[index for index in ids if index is not None and index != integer],
        integer=integer,
        group=header.group,
    )


def _empty_to_null(array: Any) -> Any:
    # Without a scalar: pyarrow imports pandas to make one, which takes 33 MiB
    # wherever it is installed.
    arrow, compute = require_arrow(), import_module("pyarrow.compute")
    lengths = compute.binary_length(array, memory_pool=_pool())
    filled = compute.cast(lengths, arrow.bool_(), memory_pool=_pool())
    nulls = arrow.nulls(len(array), array.type, memory_pool=_pool())

    return compute.if_else(filled, array, nulls, memory_pool=_pool())


def _is_int64(cell: str) -> bool:
    try:
        return not cell or -(2**63) <= int(cell) < 2**63
    except ValueError:
        return False


class Writable(Protocol):
    """A file, or anything else, that bytes are appended to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Append *data*, all of it."""


class ParquetWriter:
    """
    Writes the text of a file, as it arrives, in row groups.

    The columns are those of `ArrowReader`. Every call blocks: make it in a worker
    thread. The file belongs to the caller, who closes, renames or removes it.

    Attributes:
        rows: Members taken so far; all of the file's after `finish()`.
    """

    def __init__(self, file: Writable, *, amplitude_id: AmplitudeId = "text") -> None:
        self.rows: int = 0
        self._reader = ArrowReader(amplitude_id=amplitude_id)
        self._raw = _RawFile(file)
        self._file = io.BufferedWriter(self._raw, _BUFFER_SIZE)
        self._writer: Any = None
        self._batches: list[RecordBatch] = []
        self._size = 0

    def write(self, data: Buffer) -> None:
        """
        Take the next text, cut anywhere.

        Raises:
            CsvError: The file is malformed.
            OSError: The disk refused.
        """
        self._take(self._reader.feed(data))

    def finish(self) -> None:
        """
        Write what is left, and the footer.

        Raises:
            CsvError: The file is malformed, or ends too early.
            OSError: The disk refused.
        """
        self._take(self._reader.finish())
        self._write_group()
        self._writer.close()
        self._file.flush()

    def discard(self) -> None:
        """Release what is not written yet; safe at any time."""
        # pyarrow writes a footer when its writer is deleted: let it go nowhere.
        self._raw.detach_file()
        self._batches, self._size = [], 0
        self._writer = None

    def _take(self, batches: Iterator[RecordBatch]) -> None:
        for batch in batches:
            self._batches.append(batch)
            self._size += batch.nbytes
            self.rows += batch.num_rows

            if self._size >= _ROW_GROUP_SIZE:
                self._write_group()

    def _write_group(self) -> None:
        arrow = require_arrow()
        schema = self._reader.schema

        if self._writer is None:
            self._writer = _open(self._file, schema)

        if self._batches:
            table = arrow.Table.from_batches(self._batches, schema=schema)
            self._batches, self._size = [], 0
            self._writer.write_table(table, row_group_size=table.num_rows)
            # It buffers pages in the default pool, which keeps their memory.
            arrow.default_memory_pool().release_unused()


def _open(file: io.BufferedIOBase, schema: Schema) -> Any:
    # Ids are all different and in no order: a dictionary of them, and the least
    # and greatest of a row group, cost half of the time and help no reader.
    others = [name for name in schema.names if name not in _UNIQUE_COLUMNS]

    return import_module("pyarrow.parquet").ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=others or False,
        write_statistics=others or False,
        memory_pool=_pool(),
    )


class _RawFile(io.RawIOBase):
    # What pyarrow needs of a file, over what can only append.
    def __init__(self, file: Writable) -> None:
        super().__init__()
        self._file: Writable | None = file
        self._written = 0

    def detach_file(self) -> None:
        self._file = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes

        if self._file is not None:
            # The buffer is used again after the call.
            self._file.write(bytes(data))

        self._written += size

        return size


def _pool() -> Any:
    # pyarrow's own allocators keep what they were given: a Parquet file of two
    # million members took 92 MiB with mimalloc and 53 MiB with the system's.
    return require_arrow().system_memory_pool()


def require_arrow() -> ModuleType:
    """Return pyarrow; raise `MissingExtraError` if it is not installed."""
    try:
        return import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise MissingExtraError("Parquet", extra="parquet") from error
