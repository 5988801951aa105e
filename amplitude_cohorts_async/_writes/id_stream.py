"""
Reads the caller's ids, in whatever form, as slices of checked text.

A file is read in a worker thread. Everything else is read on the event loop,
a slice at a time; other tasks run in between.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from collections.abc import Set as AbstractSet
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import (
    BinaryIO,
    Protocol,
    Self,
    TypeVar,
    cast,
    overload,
    runtime_checkable,
)

import anyio.lowlevel
import anyio.to_thread
import attrs

from .._core.batching import IDS_AT_ONCE, MOST_IDS, checked_member_ids
from .._core.csvparse import MemberReader
from .._core.csvtext import CsvError
from .._id_source import IdSource
from ..errors import InvalidInputError
from ..models import Member
from .id_tables import PARQUET, is_parquet, parquet_members, slices_of_column

_BLOCK = 64 * 1024
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_COLUMNS = {"amplitude_id", "user_id", "group_value"}

T = TypeVar("T")


@runtime_checkable
class _ArrowColumn(Protocol):
    """The used part of pyarrow's arrays, which iterate over scalars, not text."""

    def __len__(self) -> int: ...
    def slice(self, offset: int, length: int, /) -> Self: ...
    def to_pylist(self) -> list[object]: ...


class IdFile(Collection[str]):
    """
    The ids of a file, one a line, or one column of a table (CSV, Parquet).

    UTF-8 text, gzip too; blank lines are skipped. Pass it where ids are expected,
    or iterate it with ``async for``, which reads in a worker thread. A plain
    ``for`` and ``len()`` read in the calling thread.
    """

    def __init__(self, path: str | os.PathLike[str], column: str | None = None) -> None:
        self.path: Path = Path(path)
        self.column: str | None = column

    def __repr__(self) -> str:
        column = "" if self.column is None else f", {self.column!r}"

        return f"IdFile({str(self.path)!r}{column})"

    async def __aiter__(self) -> AsyncIterator[str]:
        async with aclosing(_flattened(ids_of(self))) as ids:
            async for id_ in ids:
                yield id_

    def __iter__(self) -> Iterator[str]:
        position = 0

        with _translated(self.path), _open(self.path) as file:
            if self.column is not None:
                for cells in slices_of_column(file, self.path, self.column):
                    yield from checked_member_ids(cells, position=position)
                    position += len(cells)
                return

            while lines := _read_lines(file, self.path, first=not position):
                yield from checked_member_ids(lines, position=position)
                position += len(lines)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, id_: object) -> bool:
        return any(id_ == other for other in self)


@overload
def read_ids(
    source: str | os.PathLike[str], *, column: str | None = None
) -> IdFile: ...


@overload
def read_ids(source: BinaryIO) -> AsyncGenerator[str]: ...


def read_ids(
    source: str | os.PathLike[str] | BinaryIO, *, column: str | None = None
) -> IdFile | AsyncGenerator[str]:
    """
    Return the ids of a file, one a line or of one column; nothing is read yet.

    Args:
        source: A path, or an open binary file such as ``sys.stdin.buffer``,
            which is read once, in a worker thread, and not closed.
        column: The name of a column of a CSV file, gzip too, or of a Parquet file
            (extra ``parquet``). An empty cell is an error, as a missing id is.

    Raises:
        InvalidInputError: A column of an open file is asked for.
    """
    if isinstance(source, str | os.PathLike):
        return IdFile(source, column)

    if column is not None:
        raise InvalidInputError("a column is read from a path; pass the path of a file")

    name = Path(str(getattr(source, "name", "the stream of ids")))
    lines = partial(_lines, source, name, may_block=True)

    return _flattened(Ids(open=lines, again=False))


@attrs.frozen(kw_only=True)
class Ids(AsyncIterable[str]):
    """
    A stream of ids, which may be passed where ids are expected.

    What `open()` yields is not checked yet. `again`: they can be read more than once;
    `ordered`: a later process would read them in the same order; `amplitude`: they are
    Amplitude's own.
    """

    open: Callable[[], AsyncGenerator[Sequence[object]]]
    again: bool
    path: Path | None = None
    ordered: bool = True
    amplitude: bool = False

    async def __aiter__(self) -> AsyncIterator[str]:
        async with aclosing(_flattened(self)) as ids:
            async for id_ in ids:
                yield id_

    async def slices(self) -> AsyncGenerator[list[str]]:
        """Yield checked ids, `IDS_AT_ONCE` at most; close it when leaving early."""
        position = 0

        async with aclosing(self.open()) as parts:
            async for part in parts:
                for start in range(0, len(part), IDS_AT_ONCE):
                    ids = checked_member_ids(
                        part[start : start + IDS_AT_ONCE],
                        position=position,
                        amplitude=self.amplitude,
                    )
                    position += len(ids)
                    yield ids
                    await anyio.lowlevel.checkpoint()


def ids_of(source: IdSource, *, amplitude: bool = False) -> Ids:
    """
    Return the caller's ids as a stream; refuse texts, tables and mappings.

    With *amplitude*, only what can be an Amplitude id is taken.
    """
    return attrs.evolve(_opened_ids(source), amplitude=amplitude)


def _opened_ids(source: IdSource) -> Ids:
    if isinstance(source, Ids):
        return source

    _refuse_lookalikes(source)

    if isinstance(source, IdFile):
        if source.column is not None:
            read = partial(_column_slices, source.path, source.column)
            return Ids(open=read, again=True, path=source.path)
        source = source.path

    if isinstance(source, os.PathLike):
        path = Path(source)
        return Ids(open=lambda: _file_lines(path), again=True, path=path)

    if isinstance(source, _ArrowColumn):
        return Ids(open=lambda: _iterable_slices(source), again=True)

    if isinstance(source, AsyncIterable):
        return Ids(open=lambda: _async_slices(source), again=False)

    if isinstance(source, Iterable):
        return Ids(
            open=lambda: _iterable_slices(source),
            again=isinstance(source, Collection),
            ordered=not isinstance(source, AbstractSet),
        )

    raise InvalidInputError(
        f"ids were given as {type(source).__name__}; pass an iterable, an async "
        f"iterable or a path"
    )


def _refuse_lookalikes(source: object) -> None:
    # Each of these can be iterated, and yields something other than the ids.
    kind = type(source)

    if isinstance(source, str | bytes | bytearray | memoryview):
        raise InvalidInputError(
            "ids were given as one text; pass a list of them, and the path of a "
            "file as Path(...) or read_ids(...)"
        )

    if isinstance(source, Mapping):
        raise InvalidInputError(
            f"ids were given as a {kind.__name__}, a mapping, and it is unclear which "
            f"side has the ids; pass list(mapping) for its keys, or mapping.values()"
        )

    # Looked up on the class: on a lazy frame, the attribute itself runs a query.
    if hasattr(kind, "columns"):
        raise InvalidInputError(
            f"ids were given as a {kind.__name__}, a table, whose items are not its "
            f'rows; pass one column of it, as in table["user_id"]'
        )


def check_resumable(journal: str | os.PathLike[str] | None, *sources: Ids) -> None:
    """Raise `InvalidInputError` if a later run would read the ids in another order."""
    if journal is not None and not all(ids.ordered for ids in sources):
        raise InvalidInputError(
            "a set has another order in every process, so a journal of it could not "
            "be resumed; pass sorted(ids)"
        )


async def _flattened(ids: Ids) -> AsyncGenerator[str]:
    async with aclosing(ids.slices()) as slices:
        async for part in slices:
            for id_ in part:
                yield id_


@asynccontextmanager
async def buffered_head(ids: Ids) -> AsyncGenerator[Ids]:
    """
    Read the first request's worth of ids that can be read only once.

    A stream that ends within it can be checked as a whole before anything is sent.
    """
    # A pipe has a path, too, and can be read only once.
    if ids.again and (
        ids.path is None or await anyio.to_thread.run_sync(ids.path.is_file)
    ):
        yield ids
        return

    ids = attrs.evolve(ids, again=False)
    head: list[str] = []

    async with aclosing(ids.slices()) as slices:
        async for part in slices:
            head += part
            if len(head) > MOST_IDS:
                break
        else:
            yield attrs.evolve(ids, open=partial(_iterable_slices, head), again=True)
            return

        async def head_and_rest() -> AsyncGenerator[Sequence[object]]:
            """Yield what was read already, then the rest."""
            yield head
            async for part in slices:
                yield part

        yield attrs.evolve(ids, open=head_and_rest)


async def is_members_file(path: Path) -> bool:
    """Whether a file holds members, as an export does, and not ids, one a line."""
    async with _opened(path) as file:
        head = await _in_thread(lambda: file.readline(_BLOCK), path)

        return head.startswith(PARQUET) or _has_columns(head)


async def members_of_file(path: Path) -> AsyncGenerator[list[Member]]:
    """Yield the members of a file that an export wrote, in any of its formats."""
    reader = MemberReader()
    block: bytes | None = None

    async with _opened(path) as file:
        if await _in_thread(lambda: is_parquet(file), path):
            found = _in_threads(parquet_members(file, path), path)
            async with aclosing(found) as batches:
                async for members in batches:
                    yield members
            return

        while block != b"":
            block = await _in_thread(lambda: file.read(_BLOCK), path)
            yield await _in_thread(partial(_decoded, reader, block), path)


async def _column_slices(path: Path, column: str) -> AsyncGenerator[Sequence[object]]:
    async with _opened(path) as file:
        cells = slices_of_column(file, path, column)
        async with aclosing(_in_threads(cells, path)) as parts:
            async for part in parts:
                yield part


async def _in_threads(parts: Generator[T], path: Path) -> AsyncGenerator[T]:
    # Each part is read in a worker thread.
    end = object()

    while (part := await _in_thread(lambda: next(parts, end), path)) is not end:
        yield cast("T", part)


def _decoded(reader: MemberReader, block: bytes) -> list[Member]:
    batches = reader.feed(block) if block else reader.finish()

    return [member for batch in batches for member in batch]


def slices_of(
    ids: Iterable[object] | _ArrowColumn, size: int = IDS_AT_ONCE
) -> Generator[Sequence[object]]:
    """Yield lists of *size* values at most, as they are; iterating is what blocks."""
    if isinstance(ids, _ArrowColumn):
        for start in range(0, len(ids), size):
            yield ids.slice(start, size).to_pylist()
        return

    iterator = iter(ids)

    while part := list(islice(iterator, size)):
        yield part


async def _iterable_slices(
    ids: Iterable[object] | _ArrowColumn,
) -> AsyncGenerator[Sequence[object]]:
    for part in slices_of(ids):
        yield part


async def _async_slices(
    ids: AsyncIterable[object],
) -> AsyncGenerator[Sequence[object]]:
    part: list[object] = []

    try:
        async for id_ in ids:
            part.append(id_)
            if len(part) == IDS_AT_ONCE:
                yield part
                part = []
    finally:
        # A generator that is not closed would keep its database cursor open.
        if isinstance(ids, AsyncGenerator):
            await cast("AsyncGenerator[object]", ids).aclose()

    yield part


async def _file_lines(path: Path) -> AsyncGenerator[Sequence[object]]:
    async with _opened(path) as file, aclosing(_lines(file, path)) as blocks:
        async for lines in blocks:
            yield lines


async def _lines(
    file: BinaryIO, path: Path, *, may_block: bool = False
) -> AsyncGenerator[Sequence[object]]:
    lines: list[str] | None = None

    while lines is None or lines:
        read = partial(_read_lines, file, path, first=lines is None)
        lines = await _in_thread(read, path, may_block=may_block)
        yield lines


def _read_lines(file: BinaryIO, path: Path, *, first: bool) -> list[str]:
    # Blank lines alone are not the end.
    while block := b"".join(file.readlines(_BLOCK)):
        if first and _has_columns(block):
            raise InvalidInputError(
                f"{path} has columns, as a file of exported members has, but must have "
                f"one id a line; pass read_ids(path, column=...)"
            )

        if first and block.startswith(PARQUET):
            raise InvalidInputError(
                f"{path} is a Parquet file; pass read_ids(path, column=...)"
            )

        block = block.removeprefix(_BOM) if first else block
        lines = [line.rstrip("\r") for line in block.decode().split("\n")]

        if ids := [line for line in lines if line]:
            return ids

    return []


def _has_columns(block: bytes) -> bool:
    header = block.partition(b"\n")[0].removeprefix(_BOM).decode(errors="replace")
    names = [name.strip('"\t\r') for name in header.split(",")]

    return len(names) > 1 and not _COLUMNS.isdisjoint(names)


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")

    if file.peek(2)[:2] == _GZIP:
        return cast("BinaryIO", _OwningGzip(file))

    return file


class _OwningGzip(gzip.GzipFile):
    """Closes the compressed file as well."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(fileobj=file)
        self._compressed = file

    def close(self) -> None:
        super().close()
        self._compressed.close()


@asynccontextmanager
async def _opened(path: Path) -> AsyncGenerator[BinaryIO]:
    file = await _in_thread(lambda: _open(path), path)

    try:
        yield file
    finally:
        # Opened for reading: close() does not block.
        file.close()


async def _in_thread(
    work: Callable[[], T], path: Path, *, may_block: bool = False
) -> T:
    # A read from a terminal or a pipe may never end: cancelling must not wait for it.
    with _translated(path):
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=may_block)


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    except CsvError as error:
        raise InvalidInputError(
            f"{path} is not a file of members: {error}; export it again"
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        # Without the path, which an error of the system names again.
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"{path} cannot be read: {reason}") from error
