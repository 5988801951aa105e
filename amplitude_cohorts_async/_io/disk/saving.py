"""
Which stages a file passes on its way to a target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .aside import Aside
from .files import Format, Target
from .partfile import TAKES_RANGES, PartFile
from .saved_file import LocalFile
from .stages import Both, Count, Deflate, Inflate, Sniff, Stage, TextCheck


class Columns(Stage, Protocol):
    """
    The stage that makes columns of text.
    """

    @property
    def rows(self) -> int:
        """
        Members taken so far.
        """
        ...


class Saving:
    """
    The chain of stages for one attempt at one target.

    Attributes:
        file: What grows on disk.

        saved: What the file is known by; there after `finish()`.

        rows: Members in it, if they were counted: they are few, or in columns.

        is_light: Whether bytes go to the file as they come; known only when
            the first ones are there.
    """

    saved: LocalFile

    def __init__(
        self,
        target: Target,
        *,
        never: bytes,
        file_mode: int | None,
        columns: Callable[[PartFile], Columns],
    ) -> None:
        self._target = target
        self._never = never
        self._make_columns = columns
        self._count: Columns | Count | None = None
        self._is_in_order = True
        self._sniff = Sniff(self._choose)
        self.file = PartFile(target.path, mode=file_mode)
        self.rows: int | None = None
        self.is_light = False

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes, as served.
        """
        self._sniff.write(data)

    def finish(self, *, is_delimited: bool) -> None:
        """
        Check that this was all, and give the file its name.

        Args:
            is_delimited: Whether a cut would have been noticed on the wire.
        """
        self._sniff.finish(is_delimited=is_delimited)
        self.saved = self.file.finish()

        if self._count is not None and self._is_in_order:
            self.rows = self._count.rows

    def discard(self) -> None:
        """
        Remove what was written, unless it has its name.
        """
        self._sniff.discard()
        self.file.discard()

    def window(self, start: int) -> Window | None:
        """
        Return another place to write to, if the file may grow in any order.
        """
        if self.is_light and TAKES_RANGES:
            return Window(self.file, start)

        return None

    def reserve(self, size: int) -> None:
        """
        Give the file its final length, to be filled in any order.
        """
        self._is_in_order = False
        self.file.reserve(size)

    def _choose(self, is_gzip: bool) -> Stage:
        if self._target.format is Format.PARQUET:
            self._count = columns = self._make_columns(self.file)
            text = TextCheck(columns, never=self._never)
            return Inflate(text) if is_gzip else text

        if self._target.format is Format.CSV:
            self.is_light = not is_gzip
            file = _Append(self.file)
            self._count = count = Count(Aside(file) if is_gzip else file)
            text = TextCheck(count, never=self._never)
            return Aside(Inflate(text)) if is_gzip else text

        self._count = count = Count()
        check = TextCheck(count, never=self._never)

        # Inflating what is stored compressed proves its check sum.
        if is_gzip:
            return Both(Inflate(check), _Append(self.file))

        return Both(check, Deflate(_Append(self.file)))


class _Append:
    """
    The last stage of a chain; the file itself is finished by its owner.
    """

    def __init__(self, file: PartFile) -> None:
        self.write = file.write

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass


class Window:
    """
    A part of a file that a connection of its own fills, in order.
    """

    is_light = True

    def __init__(self, file: PartFile, start: int) -> None:
        self._file = file
        self._end = start

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes.
        """
        self._end = self._file.write_at(self._end, data)
