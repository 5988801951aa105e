"""
Filters that file bytes pass through; each writes to the next one.

Everything here blocks and is called in worker threads, one call at a time. The
data of a call may be in a buffer that is used again after it: a filter that
keeps some copies it.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from queue import Queue
from typing import Protocol, cast

import attrs

from ..._core.csvtext import Malformed, RecordCounter

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31

_INPUT_SLICE = 128 * 1024
_OUTPUT_SLICE = 512 * 1024
"""
Compressed bytes inflated at a time, and text made of them at a time: they bound
the memory, whatever a file claims to hold, and how long others may wait for the
interpreter.
"""

_COUNTED = 1 << 20
"""Bytes of text whose members are counted in passing: a millisecond's work or two."""

_QUEUE_SIZE = 4
"""
Pieces that may wait for the other thread: memory stays small, and the slower one
of the two never waits.
"""

_BLANK = b"\xef\xbb\xbf \t\r\n"


class Filter(Protocol):
    """Takes bytes in order, then an end or an abandonment."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        ...

    def finish(self) -> None:
        """
        End: there are no more bytes.

        Raises:
            Malformed: It cannot have been all.
        """
        ...

    def discard(self) -> None:
        """Forget everything; safe at any time, also after `finish()`."""
        ...


class PassThrough:
    """Passes everything on to the next filter; without one, nothing is kept."""

    def __init__(self, then: Filter | None = None) -> None:
        self._then = then

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self._then is not None:
            self._then.write(data)

    def finish(self) -> None:
        """End, then the next filter."""
        if self._then is not None:
            self._then.finish()

    def discard(self) -> None:
        """Forget everything, here and in the next filter."""
        if self._then is not None:
            self._then.discard()


class DetectGzip:
    """
    Detects whether bytes are compressed, then builds the filters for them.

    The header that should tell is sometimes missing, so the bytes themselves
    are asked. Compressed bytes prove their own end; plain ones do not.
    """

    def __init__(self, build: Callable[[bool], Filter]) -> None:
        self._build = build
        self._head = b""
        self._then: Filter | None = None
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
        """
        End, then the next filter.

        Args:
            is_delimited: Whether a cut would have been noticed on the wire.
        """
        then = self._then or self._choose()

        if not is_delimited and not self._is_gzip:
            raise Malformed(
                "it came without a length, so a cut would not be noticed; look for a "
                "proxy that takes the length away"
            )

        then.finish()

    def discard(self) -> None:
        """Forget everything, here and in the next filter."""
        if self._then is not None:
            self._then.discard()

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

    def write(self, data: bytes | memoryview) -> None:
        """Take the next compressed bytes."""
        view = memoryview(data)

        try:
            for start in range(0, len(view), _INPUT_SLICE):
                self._write(view[start : start + _INPUT_SLICE])
        except inflate_errors() as error:
            raise Malformed(f"the compressed file is damaged ({error})") from None

    def finish(self) -> None:
        """Check that the last member of the file came to its end."""
        if not self._stream.eof:
            raise Malformed("the compressed file ends before its own end")

        super().finish()

    def _write(self, data: bytes | memoryview) -> None:
        is_full = False

        # A text of full length may have left some behind, inside the stream.
        while data or is_full:
            if self._stream.eof:
                self._begin_another(data)

            text = self._stream.decompress(data, _OUTPUT_SLICE)
            data = self._stream.unused_data or self._stream.unconsumed_tail
            is_full = len(text) == _OUTPUT_SLICE and not self._stream.eof

            if text:
                super().write(text)

    def _begin_another(self, data: bytes | memoryview) -> None:
        # Another gzip member is legal, and rare; anything else is refused at once.
        if bytes(data[:1]) != _GZIP_MAGIC[:1]:
            raise Malformed("the compressed file is damaged (more follows its end)")

        self._stream = inflater()


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
    """The same bytes to two filters; the first one must finish before the second."""

    def __init__(self, first: Filter, second: Filter) -> None:
        self._both = (first, second)

    def write(self, data: bytes | memoryview) -> None:
        """Give the next bytes to both."""
        for each in self._both:
            each.write(data)

    def finish(self) -> None:
        """Finish both, in order."""
        for each in self._both:
            each.finish()

    def discard(self) -> None:
        """Discard both."""
        for each in self._both:
            each.discard()


class TextCheck(PassThrough):
    """
    Refuses what is no CSV text at all, and passes on what may be.

    A page of a proxy or an error of the store must not get a cohort's name.

    Args:
        not_text: What the first byte that is not blank cannot be.
    """

    def __init__(self, then: Filter | None = None, *, not_text: bytes = b"<{[") -> None:
        super().__init__(then)
        self._not_text = not_text
        self._is_empty = True

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        if self._is_empty:
            self._look_at(bytes(data).lstrip(_BLANK))

        super().write(data)

    def finish(self) -> None:
        """Check that there was any text: even an empty cohort has a header."""
        if self._is_empty:
            raise Malformed("the file is empty; even an empty cohort has a header")

        super().finish()

    def _look_at(self, text: bytes) -> None:
        self._is_empty = not text

        if text and text[:1] in self._not_text:
            raise Malformed("the file holds a web page or JSON, not members")

        # One byte of the magic will do: no text begins with that.
        if text.startswith(_GZIP_MAGIC[:1]):
            raise Malformed("the file was compressed twice")


class Count(PassThrough):
    """
    Counts the members of a small file in passing, and passes on its text.

    Counting a large one would slow down all who do not ask for the number.
    """

    def __init__(self, then: Filter | None = None) -> None:
        super().__init__(then)
        self._counter = RecordCounter()
        self._size = 0

    @property
    def rows(self) -> int | None:
        """Members of the text so far; None when it was too much to count."""
        return self._counter.rows if self._size <= _COUNTED else None

    def write(self, data: bytes | memoryview) -> None:
        """Take the next text."""
        self._size += len(data)

        if self._size <= _COUNTED:
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
            # A program that ends in the middle does not wait for a daemon.
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

        self._queue.put(bytes(data))

    def finish(self) -> None:
        """End when the next filter has taken everything, and finish it."""
        self._join()

        if self._error is not None:
            raise self._error

        self._then.finish()

    def discard(self) -> None:
        """Forget everything, here and in the next filter."""
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


class Inflater(Protocol):
    """One gzip member being inflated, as `zlib.decompressobj()` does it."""

    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        """Inflate to so many bytes at most."""
        ...


@attrs.frozen
class _Library:
    make: Callable[[int], Inflater]
    error: type[Exception]


def inflater() -> Inflater:
    """Begin one gzip member."""
    return _library().make(_GZIP_BITS)


def inflate_errors() -> tuple[type[Exception], ...]:
    """Return what `Inflater.decompress()` raises for damaged bytes."""
    return (_library().error,)


@cache
def _library() -> _Library:
    try:
        # More than twice as fast, and it checks the same.
        isal = import_module("isal.isal_zlib")
    except ImportError:
        return _Library(
            cast("Callable[[int], Inflater]", zlib.decompressobj), zlib.error
        )

    return _Library(isal.decompressobj, isal.error)
