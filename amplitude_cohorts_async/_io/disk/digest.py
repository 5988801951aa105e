"""
The SHA-256 of a saved file, worked out when somebody asks for it.

Hashing takes as much of the processor as receiving over TLS does; whoever does
not look at a digest should not pay for it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Self

import attrs

from ...errors import StorageError


@attrs.frozen
class FileDigest:
    """
    Knows a file again, and digests it when called.

    Attributes:
        changed: When the file was written last, in nanoseconds.

        request_id: The job it came from, for the error.
    """

    path: Path
    size: int
    changed: int
    request_id: str = ""

    @classmethod
    def of(cls, path: Path, found: os.stat_result) -> Self:
        """
        Remember a file as it is now.
        """
        return cls(path.absolute(), found.st_size, found.st_mtime_ns)

    def __call__(self) -> str:
        """
        Read the file and return its digest in hex; it blocks.

        Raises:
            StorageError: The file is gone, or no longer what was saved.
        """
        try:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                found = os.fstat(file.fileno())
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error

        if not self.is_of(found):
            raise self._lost("it was changed after it was saved")

        return digest

    def is_of(self, found: os.stat_result) -> bool:
        """
        Tell whether a file is still the one that was saved.
        """
        return (found.st_size, found.st_mtime_ns) == (self.size, self.changed)

    def _lost(self, reason: str) -> StorageError:
        return StorageError(
            f"{self.path} has no digest: {reason}; ask for `sha256` before the file "
            f"is moved or changed",
            request_id=self.request_id,
        )
