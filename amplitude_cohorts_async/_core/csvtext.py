"""
The grammar of the file: RFC 4180, read strictly.

Bytes come in cut anywhere; blocks of whole records and columns of text go out. What
the grammar does not allow is an error with a line number, never a guess. No message
shows a cell: cells name people.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

# About the bytes of a block, decoded in a millisecond, unless one record is longer.
BLOCK = 32 * 1024

# About the bytes of the longest record. Without this limit a quote that is never
# closed would take a whole file into memory.
MAX_RECORD = 16 * 1024 * 1024

Buffer = bytes | bytearray | memoryview
"""Bytes, in any of Python's forms."""

# A field and what ends it. Quotes stand around a whole field or nowhere.
_FIELD = re.compile(r'(?:"((?:[^"]|"")*+)"|([^",\r\n]*+))(,|\r?\n)')
_ONE = r'(?:"[^"]*+(?:""[^"]*+)*+"|[^",\r\n]*+)'
_RECORDS = re.compile(rf"(?:(?!\r?\n){_ONE}(?:,{_ONE})*+\r?\n)*+")
_PLAIN = re.compile(rb'(?:"[^"]*+"[,\n])*+')
_OTHERS = bytes(set(range(256)) - set(b'"\n'))
# Surrogates stand for bytes that are not UTF-8; see `decode()`.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


class Malformed(ValueError):  # noqa: N818 - users see MalformedFileError
    """
    A file that is not what it claims to be; its job is not known here.

    Attributes:
        advice: What to do about it.
    """

    advice = "try once more, and report it to Amplitude if that does not help"


class TooLarge(Malformed):
    """A file with more text than `Downloading.max_size`."""

    def __init__(self, max_size: int) -> None:
        super().__init__(f"it holds more than {max_size:,} bytes of text")
        self.advice = (
            "if it may be so large, pass CohortsClient a "
            "Downloading(max_size=...) with more, and continue with `resume_export()`"
        )


class CsvError(Malformed):
    """Text that is not valid CSV; its *line* is counted from 1."""

    advice = "download it to a name that ends in .csv.gz to have it as it was served"

    def __init__(self, reason: str, *, line: int) -> None:
        super().__init__(f"line {line} {reason}")
        self.line = line


def decode(block: bytes) -> str:
    """
    Return the text of whole records; a byte that is not UTF-8 becomes a surrogate.

    The records before it are then judged first, and the error is the same however the
    file was cut.
    """
    try:
        return block.decode()
    except UnicodeDecodeError:
        return block.decode(errors="surrogateescape")


def read_columns(block: bytes, width: int, *, line: int) -> list[Sequence[str]]:
    """
    Return the *width* columns of whole records; the last one ends in a newline, too.

    Raises `CsvError` for a record of another grammar or width. *line* is the number of
    the block's first line.
    """
    try:
        text = block.decode()
    except UnicodeDecodeError:
        text = decode(block)
        columns = None
    else:
        columns = _read_plain(text, width) or _read_quoted(text, width)

    # The slow reader finds the error; rarely it succeeds, being more tolerant.
    return columns or _transpose(
        [record for record, _ in read_records(text, width, line=line)]
    )


def _read_plain(text: str, width: int) -> list[Sequence[str]] | None:
    # The service quotes every field, and cells seldom hold quotes. Then a few C calls
    # split the text, in a third of csv.reader's time. This is exact: if no piece holds
    # a quote and every newline ends a record of the right width, the pieces are the
    # only reading the grammar allows.
    quote = '"' if text.startswith('"') else ""
    records = text.count("\n")

    if (
        text.count('"') != 2 * len(quote) * records * width
        or not text.endswith(f"{quote}\n")
        or "\r" in text
        or "\0" in text
        or (not quote and f"\n{text}".find("\n\n") >= 0)
    ):
        return None

    # Each newline becomes a column of its own, which shows the widths.
    cut = f"{quote},{quote}"
    body = text[len(quote) : -1 - len(quote)]
    flat = body.replace(f"{quote}\n{quote}", f"{cut}\n{cut}").split(cut)
    step = width + 1

    if len(flat) != records * step - 1 or flat[width::step].count("\n") != records - 1:
        return None

    return [flat[column::step] for column in range(width)]


def _read_quoted(text: str, width: int) -> list[Sequence[str]] | None:
    try:
        records = list(csv.reader(io.StringIO(text, newline="\n"), strict=True))
    except csv.Error:  # also for a field beyond csv.field_size_limit()
        return None

    if {width} != set(map(len, records)):
        return None

    columns = _transpose(records)

    return columns if _is_strict(text, columns) else None


def _is_strict(text: str, columns: Sequence[Sequence[str]]) -> bool:
    # csv.reader accepts what the grammar does not: NULs, many carriage returns before
    # a newline, and quotes inside a bare field. No cell with a quote means none of the
    # latter; two quotes around each field and two for each one in a cell mean that all
    # are doubled. Otherwise the grammar's own expression decides, in half the time of
    # csv.reader.
    if "\0" in text:
        return False

    quotes = sum("".join(column).count('"') for column in columns)
    fields = len(columns) * len(columns[0])
    doubled = quotes == 0 or 2 * (quotes + fields) == text.count('"')

    return (doubled and "\r" not in text) or bool(_RECORDS.fullmatch(text))


def _transpose(records: list[list[str]]) -> list[Sequence[str]]:
    return list(zip(*records, strict=True))


def check_block(block: bytes, width: int, *, line: int) -> None:
    """
    Raise `CsvError` if a record is not in the grammar.

    For blocks that a less strict reader reads next; that one checks widths and UTF-8.
    """
    # All fields quoted without quotes in them: recognised in half the time.
    if _PLAIN.fullmatch(block) and b"\0" not in block:
        return

    text = decode(block)

    if _UNREADABLE.search(text) or not _RECORDS.fullmatch(text):
        for _ in read_records(text, width, line=line):
            pass


def read_records(
    text: str, width: int | None = None, *, line: int
) -> Iterator[tuple[list[str], int]]:
    """
    Yield the fields of each record, and where in *text* the next one begins.

    Slow, but it finds the line of an error: `CsvError`, as in `read_columns()`. Any
    *width* is accepted if it is None.
    """
    position = 0

    while position < len(text):
        start = position
        record, position = _read_record(text, start, line=line)

        if _UNREADABLE.search(text, start, position):
            raise CsvError("has a NUL, or bytes that are not UTF-8", line=line)

        if text[start] in "\r\n":
            raise CsvError("is empty", line=line)

        if len(record) != (width or len(record)):
            raise CsvError(
                f"has {len(record)} fields where the header has {width}", line=line
            )

        yield record, position
        line += text.count("\n", start, position)


def _read_record(text: str, start: int, *, line: int) -> tuple[list[str], int]:
    fields: list[str] = []
    position = start

    while match := _FIELD.match(text, position):
        quoted, bare, end = match.groups()
        fields.append(bare if quoted is None else quoted.replace('""', '"'))
        position = match.end()

        if end != ",":
            return fields, position

    fault = (
        "has a quote that is not closed, or text after a closing quote"
        if text.startswith('"', position)
        else "has a quote or a carriage return in a field without quotes"
    )
    raise CsvError(fault, line=line + text.count("\n", start, position))


class RecordSplitter:
    """
    Cuts a stream of bytes into blocks of whole records.

    `line` is the number of the first line of the last yielded block.
    """

    def __init__(self, *, block: int = BLOCK, max_record: int = MAX_RECORD) -> None:
        self.line = 1
        self._block = block
        self._max_record = max_record
        self._held: list[bytes] = []
        self._size = 0
        self._quoted = False

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """
        Yield the records that these bytes complete, in blocks.

        Exhaust the iterator before feeding more. Raises `CsvError` at a too long record.
        """
        view = memoryview(data)

        for start in range(0, len(view), self._block):
            piece = bytes(view[start : start + self._block])
            cut, self._quoted = _last_boundary(piece, quoted=self._quoted)

            if cut:
                block = b"".join([*self._held, piece[:cut]])
                self._held, self._size = [], 0
                yield block
                self.line += block.count(b"\n")

            self._hold(piece[cut:])

    def finish(self) -> Iterator[bytes]:
        """Yield a last record without a newline; inside quotes, raise `CsvError`."""
        if self._quoted:
            raise CsvError("begins a record with a quote never closed", line=self.line)

        if self._held:
            block = b"".join([*self._held, b"\n"])
            self._held, self._size = [], 0
            yield block

    def _hold(self, rest: bytes) -> None:
        if rest:
            self._held.append(rest)
            self._size += len(rest)

        if self._size > self._max_record:
            raise CsvError(
                f"begins a record of more than {self._max_record} bytes; "
                "a quote in it may not be closed",
                line=self.line,
            )


class RecordCounter:
    """Counts the members of a well-formed file exactly, without checking it."""

    def __init__(self) -> None:
        self._ends = 0
        self._is_ended = True
        self._quoted = False

    @property
    def rows(self) -> int:
        """Records so far without the header; the last one may lack its newline."""
        return max(0, self._ends + (not self._is_ended) - 1)

    def feed(self, data: Buffer) -> None:
        """Count the next bytes, cut anywhere."""
        data = bytes(data)

        if not data:
            return

        # Two adjacent quotes do not change the parity. Without them, little more than
        # newlines is left: 0.7 GB/s, ten times csv.reader.
        marks = data.translate(None, _OTHERS).replace(b'""', b"")
        parts = marks.split(b'"')
        outside = parts[1::2] if self._quoted else parts[::2]

        self._ends += sum(part.count(b"\n") for part in outside)
        self._quoted ^= len(parts) % 2 == 0
        self._is_ended = data.endswith(b"\n") and not self._quoted


def _last_boundary(data: bytes, *, quoted: bool) -> tuple[int, bool]:
    # A newline after an even number of quotes ends a record: a doubled quote does not
    # change the parity. Counting is fast in C, and from the end the first try nearly
    # always succeeds.
    ends_quoted = quoted ^ bool(data.count(b'"') & 1)
    end, inside = len(data), ends_quoted

    while (newline := data.rfind(b"\n", 0, end)) >= 0:
        inside ^= bool(data.count(b'"', newline, end) & 1)

        if not inside:
            return newline + 1, ends_quoted

        # After the opening quote, no newline is a boundary.
        if (end := data.rfind(b'"', 0, newline)) < 0:
            break

        inside = False

    return 0, ends_quoted
