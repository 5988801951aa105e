"""The blocking side of a download into a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from io import BufferedReader

import attrs

from ..._core.csvtext import Malformed, TooLarge
from .filters import DetectGzip, Filter, TextCheck
from .part_file import TAKES_RANGES, Damaged, Kept, PartFile
from .part_record import PartKey, Source
from .saved_file import LocalFile
from .target import Counter, Options, Target


class FileSink:
    """
    Writes bytes, as served, to a target in its format.

    Attributes:
        is_light: Whether bytes go to the file unchanged; known after the first
            ones only.
    """

    def __init__(
        self,
        target: Target,
        *,
        options: Options,
        file_mode: int | None,
        request_id: str = "",
        part: PartFile | None = None,
    ) -> None:
        key = PartKey(
            request_id=request_id,
            target=target.place.name,
            format=target.format.suffix,
        )
        self._target = target
        self._options = options
        self._part = part or PartFile(
            target.place, mode=file_mode, key=key if request_id else None
        )
        self._detect = DetectGzip(self._choose)
        self._counter: Counter | None = None
        self._text: TextCheck | None = None
        self._counted: int | None = None
        self._sha256: str | None = None
        self._is_as_stored = False
        self._replay: Iterator[bytes] = iter(())
        self.is_light = False

    def begin(self) -> None:
        """Open an empty part file; an earlier one is removed."""
        self.discard()
        self._part.open()

    def take_up(self) -> Kept | None:
        """
        Open the part file that an earlier download left, and return what it has.

        What it has is taken after `replay_some()` has said so.
        """
        self._forget()
        kept = self._part.take_up()

        if kept is not None:
            self._replay = self._part.replay()
            # Others are never left; the filters look again.
            self._is_as_stored = True

        return kept

    def replay_some(self, pieces: int) -> bool:
        """
        Pass some of the kept bytes through the filters; return whether any are left.

        Raises `Damaged` if they cannot be taken up.
        """
        try:
            for _ in range(pieces):
                if (piece := next(self._replay, None)) is None:
                    if not self._is_as_stored:
                        raise Damaged
                    return False
                self._detect.write(piece)
        except Malformed:
            raise Damaged from None

        return True

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes, as served."""
        self._detect.write(data)

    def finish(self, *, is_delimited: bool) -> None:
        """Check that the bytes so far are a whole file; see `FileReceiver.end()`."""
        self._detect.finish(is_delimited=is_delimited)

    def describe(self) -> None:
        """Compute the digest and count the members; `publish()` comes next."""
        # Now: once it has its name, a reader may take it away.
        with self.reader() as file:
            self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()

        count = self._target.format.count_rows

        if self._rows is None and count is not None:
            with self.reader() as file:
                self._counted = count(file)

    def publish(self) -> LocalFile:
        """Rename the file to its target; return it, with what is known of it."""
        return attrs.evolve(
            self._part.publish(),
            # Not the part's own: a link may lead elsewhere later.
            path=self._target.path.absolute(),
            rows=self._rows if self._counted is None else self._counted,
            sha256=self._sha256,
        )

    def reader(self) -> BufferedReader:
        """Return the whole file, open at its start; the caller closes it."""
        return os.fdopen(self._part.reader(), "rb")

    def discard(self) -> None:
        """Remove what was written, unless it has its name; safe at any time."""
        self._forget()
        self._part.discard()

    def comes_from(self, source: Source | None) -> None:
        """
        Set the stored object that all bytes come from.

        With None, the file is not left for a later download.
        """
        self._part.source = source

    def checkpoint(self, *, most: float) -> bool:
        """Record what is on disk; return False if more than *most* bytes are new."""
        if not self._is_as_stored or self._part.unrecorded > most:
            return False

        self._part.checkpoint()
        return True

    def leave(self) -> None:
        """Leave what was written for a later download if it can go on with it."""
        if self._is_as_stored:
            self._part.leave()

        self.discard()

    @property
    def takes_any_order(self) -> bool:
        """Whether bytes may come in any order; known after the first ones only."""
        is_known = self._text is not None and self._text.is_settled

        return self.is_light and is_known and TAKES_RANGES

    def reserve(self, size: int) -> None:
        """Set the file's final length, to be filled in any order."""
        # The filters do not see these bytes, so they cannot count them.
        if self._options.max_size is not None and size > self._options.max_size:
            raise TooLarge(self._options.max_size)

        self._counter = None
        self._part.resize(size)

    def cut(self, size: int) -> None:
        """Drop what is kept from a position on; the next bytes go there."""
        self._part.resize(size)

    def writer_at(self, start: int) -> RangeSink:
        """Return a sink for the bytes from a position on, beside others."""
        return RangeSink(self._part, start)

    @property
    def _rows(self) -> int | None:
        return None if self._counter is None else self._counter.rows

    def _forget(self) -> None:
        self._detect.discard()
        self._detect = DetectGzip(self._choose)
        self._counter = self._text = None
        self._is_as_stored = False
        self._replay = iter(())
        self.is_light = False

    def _choose(self, is_gzip: bool) -> Filter:
        chain = self._target.format.build_filters(self._part, is_gzip, self._options)
        self._counter, self._text = chain.counter, chain.text
        self._is_as_stored = chain.is_as_stored
        self.is_light = chain.is_verbatim

        return chain.first


class RangeSink:
    """Writes a range of a file, in order."""

    is_light = True

    def __init__(self, file: PartFile, start: int) -> None:
        self._file = file
        self._extent = file.extent_at(start)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._file.append_to(self._extent, data)
