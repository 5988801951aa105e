"""
Filters that file bytes pass through; each writes to the next one.

Every call blocks and is made in a worker thread, one call at a time. The data of a
call may be in a buffer that is used again after it: a filter that keeps some
copies it.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from queue import Queue
from types import ModuleType
from typing import Any, Protocol

from ..._core.csvparse import split_header
from ..._core.csvtext import (
    CsvError,
    Malformed,
    RecordCounter,
    RecordSplitter,
    TooLarge,
)

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31

_INPUT_SLICE = 128 * 1024
_OUTPUT_SLICE = 512 * 1024
"""
Compressed bytes inflated at a time, and bytes of text made at a time: they bound
the memory, whatever a file claims to hold, and the time for which other threads
wait for the interpreter.
"""

_COUNTED = 1 << 20
"""Bytes of text whose members are counted in passing: one or two milliseconds."""

_QUEUE_SIZE = 4
"""
Pieces that may wait for the other thread: memory stays small, and the slower one
of the two never waits.
"""

_BLANK = b"\xef\xbb\xbf \t\r\n"


class Filter(Protocol):
    """Takes bytes in order, then an end or a discard."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> None:
        """End; raise `Malformed` if the bytes so far cannot be a whole file."""

    def discard(self) -> None:
        """Discard everything; safe at any time, also after `finish()`."""


class PassThrough:
    """Passes everything to the next filter, or drops it if there is none."""

    def __init__(self, then: Filter | None = None) -> None:
        self._then: Filter | None = then

    def write(self, data: bytes | memoryview) -> None:
        """Pass on the next bytes."""
        if self._then is not None:
            self._then.write(data)

    def finish(self) -> None:
        """Finish the next filter."""
        if self._then is not None:
            self._then.finish()

    def discard(self) -> None:
        """Discard the next filter."""
        if self._then is not None:
            self._then.discard()


class DetectGzip(PassThrough):
    """
    Detects whether bytes are compressed, then builds the filters for them.

    The bytes decide, because the header for this is sometimes missing. Compressed
    bytes prove their own end; plain ones do not.
    """

    def __init__(self, build: Callable[[bool], Filter]) -> None:
        super().__init__()
        self._build = build
        self._head = b""
        self._is_gzip = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self._then is not None:
            self._then.write(data)
            return

        self._head += data

        if len(self._head) >= len(_GZIP_MAGIC):
            self._choose()

    def finish(self, *, is_delimited: bool = True) -> None:
        """Finish the filters; see `FileReceiver.end()` for *is_delimited*."""
        then = self._then or self._choose()

        if not is_delimited and not self._is_gzip:
            raise Malformed(
                "it came without a length, so a cut would not be noticed; look for a "
                "proxy that takes the length away"
            )

        then.finish()

    def _choose(self) -> Filter:
        self._is_gzip = self._head.startswith(_GZIP_MAGIC)
        self._then = self._build(self._is_gzip)
        self._then.write(self._head)
        self._head = b""

        return self._then


class Inflate(PassThrough):
    """Compressed bytes in, text out; the trailer's check sum and length are checked."""

    def __init__(self, then: Filter) -> None:
        super().__init__(then)
        self._stream = inflater()
        self._is_padded = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next compressed bytes."""
        view = memoryview(data)

        try:
            for start in range(0, len(view), _INPUT_SLICE):
                self._write(view[start : start + _INPUT_SLICE])
        except _zlib().error as error:
            raise Malformed(f"the compressed file is damaged ({error})") from None

    def finish(self) -> None:
        """Check that the last gzip member is complete."""
        if not self._stream.eof:
            raise Malformed("the compressed file ends before its own end")

        super().finish()

    def _write(self, data: bytes | memoryview) -> None:
        is_full = False

        # After a full slice of text, more may be left inside the stream.
        while data or is_full:
            if self._stream.eof:
                # Another gzip member is legal, and rare. So are zeros that fill up a
                # block, as gzip(1) has it, if nothing follows. Anything else is not.
                size = len(data)
                data = bytes(data).lstrip(b"\0")
                self._is_padded |= len(data) < size

                if not data:
                    return

                if self._is_padded or data[:1] != _GZIP_MAGIC[:1]:
                    raise Malformed(
                        "the compressed file is damaged (more follows its end)"
                    )
                self._stream = inflater()

            text: bytes = self._stream.decompress(data, _OUTPUT_SLICE)
            data = self._stream.unused_data or self._stream.unconsumed_tail
            is_full = len(text) == _OUTPUT_SLICE and not self._stream.eof

            if text:
                super().write(text)


def inflater() -> Any:
    """Return a new `zlib.decompressobj()` for one gzip member, or one like it."""
    return _zlib().decompressobj(_GZIP_BITS)


def crc32(data: bytes, before: int = 0) -> int:
    """Return the CRC-32 of data that follows what has the check sum *before*."""
    check: int = _zlib().crc32(data, before)
    return check


@cache
def _zlib() -> ModuleType:
    try:
        # The extra `speed`: more than twice as fast, with the same checks.
        return import_module("isal.isal_zlib")
    except ImportError:
        return zlib


class Deflate(PassThrough):
    """Text in, compressed bytes out."""

    def __init__(self, then: Filter) -> None:
        super().__init__(then)
        self._stream = zlib.compressobj(level=1, wbits=_GZIP_BITS)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        super().write(self._stream.compress(data))

    def finish(self) -> None:
        """Write the trailer."""
        super().write(self._stream.flush())
        super().finish()


class Tee:
    """The same bytes to two filters; the first one finishes before the second."""

    def __init__(self, first: Filter, second: Filter) -> None:
        self._both = (first, second)

    def write(self, data: bytes | memoryview) -> None:
        """Pass the next bytes to both."""
        for then in self._both:
            then.write(data)

    def finish(self) -> None:
        """Finish both, in order."""
        for then in self._both:
            then.finish()

    def discard(self) -> None:
        """Discard both."""
        for then in self._both:
            then.discard()


class TextCheck(PassThrough):
    """
    Passes on text, and refuses what does not begin as a file of members, or is endless.

    A proxy's page or an error of the store must not be saved as a cohort.

    Args:
        has_header: Whether the first record names the columns, as the reader knows
            them. The third-party description does not say so.
        max_size: Bytes of text at most.

    Attributes:
        is_settled: Whether nothing that follows can make it another kind of file.
    """

    def __init__(
        self,
        then: Filter | None = None,
        *,
        has_header: bool = True,
        max_size: int | None = None,
    ) -> None:
        super().__init__(then)
        self.is_settled = False
        self._has_header = has_header
        self._max_size = max_size
        self._is_empty = True
        self._size = 0
        self._header = RecordSplitter()

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        self._size += len(data)

        if self._max_size is not None and self._size > self._max_size:
            raise TooLarge(self._max_size)

        if self._is_empty:
            self._check_start(bytes(data).lstrip(_BLANK))

        if not self.is_settled:
            self._settle(self._header.feed(data))

        super().write(data)

    def finish(self) -> None:
        """Check that there was any text: even an empty cohort has a header."""
        if self._is_empty:
            raise Malformed("the file is empty; even an empty cohort has a header")

        if not self.is_settled:
            self._settle(self._header.finish())

        super().finish()

    def _settle(self, blocks: Iterator[bytes]) -> None:
        if not self._has_header:
            self.is_settled = not self._is_empty
            return

        try:
            for block in blocks:
                split_header(block)
                self.is_settled = True
                return
        except CsvError as error:
            error.advice = (
                "it is no file of members: look for a proxy that answers in the "
                "service's place, and try once more, which spends no export"
            )
            raise

    def _check_start(self, text: bytes) -> None:
        self._is_empty = not text

        if text and text[:1] in b"<{[":
            raise Malformed("the file holds a web page or JSON, not members")

        # The first byte of the magic is enough: no text begins with it.
        if text.startswith(_GZIP_MAGIC[:1]):
            raise Malformed("the file was compressed twice")


class Count(PassThrough):
    """
    Counts the members of a small file in passing, and passes on its text.

    A large one is not counted, unless *counts_all*: that would slow down callers who
    need no count.
    """

    def __init__(self, then: Filter | None = None, *, counts_all: bool = False) -> None:
        super().__init__(then)
        self._counter = RecordCounter()
        self._most = math.inf if counts_all else _COUNTED
        self._size = 0

    @property
    def rows(self) -> int | None:
        """Members of the text so far; None when it was too much to count."""
        return self._counter.rows if self._size <= self._most else None

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        self._size += len(data)

        if self._size <= self._most:
            self._counter.feed(data)

        super().write(data)


class InThread:
    """
    Runs the next filter in a thread of its own, at the same time as this one.

    What the next filter raises is raised by a later call.
    """

    def __init__(self, then: Filter) -> None:
        self._then = then
        self._queue: Queue[bytes | None] = Queue(_QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_discarded = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; waits while the queue is full."""
        if self._error is not None:
            raise self._error

        if self._thread is None:
            # A daemon, so that a program that exits meanwhile does not wait for it.
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

        self._queue.put(bytes(data))

    def finish(self) -> None:
        """Wait until the next filter has taken everything, then finish it."""
        self._join()

        if self._error is not None:
            raise self._error

        self._then.finish()

    def discard(self) -> None:
        """Discard everything, here and in the next filter."""
        self._is_discarded = True
        self._join()
        self._then.discard()

    def _join(self) -> None:
        thread, self._thread = self._thread, None

        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _work(self) -> None:
        # Empties the queue in any case, or `write()` would wait for ever.
        while (piece := self._queue.get()) is not None:
            if self._error is None and not self._is_discarded:
                try:
                    self._then.write(piece)
                except BaseException as error:  # noqa: BLE001 - raised by a later call
                    self._error = error
