"""
The members of a large file, counted when somebody asks for them.

Counting is as much work as inflating; whoever does not look at the number should
not pay for it.
"""

from __future__ import annotations

import gzip
import os
import zlib
from typing import BinaryIO, cast

import attrs

from ..._core.csvblocks import RecordCounter
from .digest import FileDigest

_AT_ONCE = 1 << 20


@attrs.frozen
class RowCount:
    """
    Counts the members in a saved file of text when called.

    Attributes:
        saved: Knows the file again.

        is_gzip: Whether the text in it is compressed.
    """

    saved: FileDigest
    is_gzip: bool

    def __call__(self) -> int | None:
        """
        Read the file and return how many members it holds; it blocks.

        Returns:
            None when the file is gone, or no longer what was saved.
        """
        try:
            with self.saved.path.open("rb") as file:
                rows = self._count(file)
                found = os.fstat(file.fileno())
        except (OSError, EOFError, zlib.error):
            return None

        return rows if self.saved.is_of(found) else None

    def _count(self, file: BinaryIO) -> int:
        counter = RecordCounter()
        text = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if self.is_gzip else file

        while data := text.read(_AT_ONCE):
            counter.feed(data)

        return counter.rows
