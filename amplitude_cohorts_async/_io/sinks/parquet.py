"""Members as a Parquet file, written while they arrive; needs the extra ``parquet``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

from ..._core.csvtext import Buffer
from .arrow import AmplitudeId, ArrowReader, RecordBatch, Schema, pool

_ROW_GROUP_SIZE = 4 * 1024 * 1024
"""
Bytes of columns gathered for one row group, some 100,000 members: as many are
in memory, and about as many again while they are written.
"""

_BUFFER_SIZE = 256 * 1024


class Writable(Protocol):
    """Where a file grows."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Append *data*, all of it."""
        ...


class ParquetWriter:
    """
    Takes the text of a file as it arrives, and writes row groups.

    The columns are those of `ArrowReader`. Everything here blocks: call it in
    a worker thread. The file belongs to the caller, who closes it, gives it
    its name, or removes it.

    Attributes:
        rows: Members taken so far; all of the file's after `finish()`.
    """

    def __init__(self, file: Writable, *, amplitude_id: AmplitudeId = "text") -> None:
        self.rows: int = 0
        self._reader = ArrowReader(amplitude_id=amplitude_id)
        self._raw = _Raw(file)
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
        End: write what is left, and the footer.

        Raises:
            CsvError: The file is malformed, or ends too early.

            OSError: The disk refused.
        """
        self._take(self._reader.finish())
        self._write_group()
        self._writer.close()
        self._file.flush()

    def discard(self) -> None:
        """Let go of what was not written yet; safe at any time."""
        # pyarrow writes a footer when its writer goes, wherever that leads.
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
        arrow = import_module("pyarrow")
        schema = self._reader.schema

        if self._writer is None:
            self._writer = _open(self._file, schema)

        if self._batches:
            table = arrow.Table.from_batches(self._batches, schema=schema)
            self._batches, self._size = [], 0
            self._writer.write_table(table, row_group_size=table.num_rows)
            # It buffers pages where `pool()` has no say, and keeps the room.
            arrow.default_memory_pool().release_unused()


def _open(file: io.BufferedIOBase, schema: Schema) -> Any:
    parquet = import_module("pyarrow.parquet")
    others = [name for name in schema.names if name not in _DISTINCT]

    # Ids are all different and in no order: a dictionary of them, and the
    # least and greatest of a row group, cost half of the time and help no reader.
    return parquet.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=others or False,
        write_statistics=others or False,
        memory_pool=pool(),
    )


_DISTINCT = ("amplitude_id", "user_id", "group_value")


class _Raw(io.RawIOBase):
    # What pyarrow asks of a file, over what can only append.
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
