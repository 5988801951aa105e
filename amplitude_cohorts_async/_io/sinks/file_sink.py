"""The blocking side of a download into a file."""

from __future__ import annotations

import attrs

from ..._core.csvtext import TooLarge
from .filters import DetectGzip, Filter, TextCheck
from .part_file import TAKES_RANGES, PartFile
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
        self, target: Target, *, options: Options, file_mode: int | None
    ) -> None:
        self._target = target
        self._options = options
        self._part = PartFile(target.place, mode=file_mode)
        self._detect = DetectGzip(self._choose)
        self._counter: Counter | None = None
        self._text: TextCheck | None = None
        self.is_light = False

    def begin(self) -> None:
        """Open an empty part file; an earlier one is removed."""
        self.discard()
        self._part.open()
        self._detect = DetectGzip(self._choose)
        self._counter = self._text = None
        self.is_light = False

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes, as served."""
        self._detect.write(data)

    def finish(self, *, is_delimited: bool) -> None:
        """Check that the bytes so far are a whole file; see `FileReceiver.end()`."""
        self._detect.finish(is_delimited=is_delimited)

    def publish(self) -> LocalFile:
        """Rename the file to its target; return it, with its members if counted."""
        return attrs.evolve(
            self._part.publish(),
            # Not the part's own: a link may lead elsewhere later.
            path=self._target.path.absolute(),
            rows=None if self._counter is None else self._counter.rows,
        )

    def discard(self) -> None:
        """Remove what was written, unless it has its name; safe at any time."""
        self._detect.discard()
        self._part.discard()

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
        self._part.reserve(size)

    def writer_at(self, start: int) -> RangeSink:
        """Return a sink for the bytes from a position on, beside others."""
        return RangeSink(self._part, start)

    def _choose(self, is_gzip: bool) -> Filter:
        chain = self._target.format.build_filters(self._part, is_gzip, self._options)
        self._counter, self._text = chain.counter, chain.text
        self.is_light = chain.is_verbatim

        return chain.first


class RangeSink:
    """Writes a range of a file, in order."""

    is_light = True

    def __init__(self, file: PartFile, start: int) -> None:
        self._file = file
        self._end = start

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._end = self._file.write_at(self._end, data)
