"""The blocking side of a download that goes to a destination as it arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from .filters import DetectGzip, Filter
from .target import Counter, Options, Target

_BLOCK = 1 << 20
"""Bytes of a block: small ones would pay for the way to the event loop."""


class UploadSink:
    """
    Passes bytes, as served, through the filters of a format to *send*.

    Attributes:
        size: Bytes of the object so far.
        is_light: False: *send* may wait for the event loop, and must not be called
            on it.

    Args:
        send: Takes a block of the object; blocks while the upload is behind, and
            raises what ended it.
    """

    is_light = False

    def __init__(
        self, target: Target, *, options: Options, send: Callable[[bytes], None]
    ) -> None:
        self._target = target
        self._options = options
        self._detect = DetectGzip(self._choose)
        self._end = _Blocks(send)
        self._counter: Counter | None = None

    @property
    def size(self) -> int:
        """Bytes of the object so far."""
        return self._end.size

    @property
    def sha256(self) -> str:
        """The digest of the bytes so far, in hex."""
        return self._end.digest.hexdigest()

    @property
    def rows(self) -> int | None:
        """The members of the object, once it is whole."""
        return None if self._counter is None else self._counter.rows

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes, as served."""
        self._detect.write(data)

    def finish(self, *, is_delimited: bool) -> None:
        """Check that the bytes so far are a whole file; see `FileReceiver.end()`."""
        self._detect.finish(is_delimited=is_delimited)
        # A writer of Parquet leaves the file to its caller.
        self._end.finish()

    def discard(self) -> None:
        """Discard what was not sent, and end the threads of the filters."""
        self._detect.discard()

    def _choose(self, is_gzip: bool) -> Filter:
        chain = self._target.format.build_filters(self._end, is_gzip, self._options)
        self._counter = chain.counter

        return chain.first


class _Blocks:
    # The end of the filters: `Writable` for Parquet as well.
    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._send = send
        self._block = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        self._block += data

        if len(self._block) >= _BLOCK:
            self._pass_on()

    def finish(self) -> None:
        if self._block:
            self._pass_on()

    def discard(self) -> None:
        self._block.clear()

    def _pass_on(self) -> None:
        block = bytes(self._block)
        self._block.clear()
        self.digest.update(block)
        self._send(block)
