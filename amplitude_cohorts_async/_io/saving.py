"""
Which stages a file passes on its way to a target.
"""

from __future__ import annotations

from .files import Format, PartFile, Target
from .stages import Both, Deflate, Inflate, Sniff, Stage, TextCheck


class Saving:
    """
    The chain of stages for one attempt at one target.

    Attributes:
        file: What grows on disk.

        rows: Members in it, if they were counted.
    """

    def __init__(self, target: Target, *, never: bytes) -> None:
        self._target = target
        self._never = never
        self._sniff = Sniff(self._choose)
        self.file = PartFile(target.path)
        self.rows: int | None = None

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
        self.file.finish()

    def discard(self) -> None:
        """
        Remove what was written, unless it has its name.
        """
        self._sniff.discard()
        self.file.discard()

    def _choose(self, is_gzip: bool) -> Stage:
        if self._target.format is Format.PARQUET:
            raise NotImplementedError

        if self._target.format is Format.CSV:
            text = TextCheck(_Append(self.file), never=self._never)
            return Inflate(text) if is_gzip else text

        check = TextCheck(never=self._never)

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
