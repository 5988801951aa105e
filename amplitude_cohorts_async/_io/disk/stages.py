"""
Stages that file bytes pass through; each writes to the next one.

Everything here blocks and is called in worker threads, one call at a time. The
data of a call may be in a buffer that is used again after it: a stage that
keeps some copies it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from ..._core.csvblocks import RecordCounter
from ..._core.csvtext import Malformed
from .inflating import inflate_errors, inflater

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31

_BITE = 128 * 1024
_MOST = 512 * 1024
"""
Compressed bytes inflated at a time, and text made of them at a time: they bound
the memory, whatever a file claims to hold, and how long others may wait for the
interpreter.
"""

_COUNTED = 1 << 20
"""
Bytes of text whose members are counted in passing: a millisecond's work or two.
"""
_BLANK = b"\xef\xbb\xbf \t\r\n"


class Stage(Protocol):
    """
    Takes bytes in order, then an end or an abandonment.
    """

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes.
        """
        ...

    def finish(self) -> None:
        """
        Take note that this was all.

        Raises:
            Malformed: It cannot have been.
        """
        ...

    def discard(self) -> None:
        """
        Forget everything; safe at any time, also after `finish()`.
        """
        ...


class Sniff:
    """
    Tells compressed bytes from plain ones, then lets the right stages take them.

    The header that should tell is sometimes missing, so the bytes themselves
    are asked. Compressed bytes prove their own end; plain ones do not.
    """

    def __init__(self, build: Callable[[bool], Stage]) -> None:
        self._build = build
        self._head = b""
        self._next: Stage | None = None
        self._is_gzip = False

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes.
        """
        if self._next is None:
            self._head += data
            if len(self._head) < len(_GZIP_MAGIC):
                return
            self._choose()
            return

        self._next.write(data)

    def finish(self, *, is_delimited: bool = True) -> None:
        """
        Let the next stage finish.

        Args:
            is_delimited: Whether a cut would have been noticed on the wire.
        """
        stage = self._next or self._choose()

        if not is_delimited and not self._is_gzip:
            raise Malformed(
                "it came without a length, so nobody can tell whether it is whole; "
                "look for a proxy that takes the length away"
            )

        stage.finish()

    def discard(self) -> None:
        """
        Let the next stage forget, if there is one.
        """
        if self._next is not None:
            self._next.discard()

    def _choose(self) -> Stage:
        self._is_gzip = self._head.startswith(_GZIP_MAGIC)
        self._next = self._build(self._is_gzip)
        self._next.write(self._head)
        self._head = b""

        return self._next


class Inflate:
    """
    Compressed bytes in, text out; the trailer's check sum and length are checked.
    """

    def __init__(self, then: Stage) -> None:
        self._then = then
        self._stream = inflater()

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next compressed bytes.
        """
        view = memoryview(data)

        try:
            for start in range(0, len(view), _BITE):
                self._write(view[start : start + _BITE])
        except inflate_errors() as error:
            raise Malformed(f"the compressed file is damaged ({error})") from None

    def finish(self) -> None:
        """
        Check that the last member came to its end.
        """
        if not self._stream.eof:
            raise Malformed("the compressed file ends before its own end")

        self._then.finish()

    def discard(self) -> None:
        """
        Let the next stage forget.
        """
        self._then.discard()

    def _write(self, data: bytes | memoryview) -> None:
        is_full = False

        # A text of full length may have left some behind, inside the stream.
        while data or is_full:
            if self._stream.eof:
                self._begin_another(data)

            text = self._stream.decompress(data, _MOST)
            data = self._stream.unused_data or self._stream.unconsumed_tail
            is_full = len(text) == _MOST and not self._stream.eof

            if text:
                self._then.write(text)

    def _begin_another(self, data: bytes | memoryview) -> None:
        # Another gzip member is legal, and rare; what is none is told at once.
        if bytes(data[:1]) != _GZIP_MAGIC[:1]:
            raise Malformed("the compressed file is damaged (more follows its end)")

        self._stream = inflater()


class Deflate:
    """
    Text in, compressed bytes out.
    """

    def __init__(self, then: Stage) -> None:
        self._then = then
        self._stream = zlib.compressobj(level=1, wbits=_GZIP_BITS)

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next text.
        """
        self._then.write(self._stream.compress(data))

    def finish(self) -> None:
        """
        Write the trailer.
        """
        self._then.write(self._stream.flush())
        self._then.finish()

    def discard(self) -> None:
        """
        Let the next stage forget.
        """
        self._then.discard()


class Both:
    """
    The same bytes to two stages; the first one must finish before the second.
    """

    def __init__(self, first: Stage, second: Stage) -> None:
        self._stages = (first, second)

    def write(self, data: bytes | memoryview) -> None:
        """
        Give the next bytes to both.
        """
        for stage in self._stages:
            stage.write(data)

    def finish(self) -> None:
        """
        Finish both, in order.
        """
        for stage in self._stages:
            stage.finish()

    def discard(self) -> None:
        """
        Let both forget.
        """
        for stage in self._stages:
            stage.discard()


class _Onward:
    """
    Passes everything on to the next stage, if there is one.
    """

    def __init__(self, then: Stage | None) -> None:
        self._then = then

    def write(self, data: bytes | memoryview) -> None:
        """
        Pass on the next text.
        """
        if self._then is not None:
            self._then.write(data)

    def finish(self) -> None:
        """
        Let the next stage finish.
        """
        if self._then is not None:
            self._then.finish()

    def discard(self) -> None:
        """
        Let the next stage forget.
        """
        if self._then is not None:
            self._then.discard()


class TextCheck(_Onward):
    """
    Refuses what is no CSV text at all, and passes on what may be.

    A page of a proxy or an error of the store must not get a cohort's name.
    """

    def __init__(self, then: Stage | None = None, *, never: bytes = b"<{[") -> None:
        super().__init__(then)
        self._never = never
        self._is_empty = True

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next text.
        """
        if self._is_empty:
            self._look_at(bytes(data).lstrip(_BLANK))

        super().write(data)

    def finish(self) -> None:
        """
        Check that there was any text: even an empty cohort has a header.
        """
        if self._is_empty:
            raise Malformed("the file is empty; even a cohort of nobody has a header")

        super().finish()

    def _look_at(self, text: bytes) -> None:
        self._is_empty = not text

        if text and text[:1] in self._never:
            raise Malformed("the file holds a web page or JSON, not members")

        # One byte of the magic will do: no text begins with that.
        if text.startswith(_GZIP_MAGIC[:1]):
            raise Malformed("the file was compressed twice")


class Count(_Onward):
    """
    Counts the members of a small file in passing, and passes on its text.

    Counting a large one would slow down all who do not ask for the number.
    """

    def __init__(self, then: Stage | None = None) -> None:
        super().__init__(then)
        self._counter = RecordCounter()
        self._size = 0

    @property
    def rows(self) -> int | None:
        """
        Members of the text so far; None when it was too much to count.
        """
        return self._counter.rows if self._size <= _COUNTED else None

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next text.
        """
        self._size += len(data)

        if self._size <= _COUNTED:
            self._counter.feed(data)

        super().write(data)
