"""
A saved file: whether it is still the same, its digest and its members.

Hashing costs as much processor time as receiving over TLS does, and counting as
much as inflating: the file is read only when one of them is asked for.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import attrs

from ...errors import StorageError
from ...models import SavedExport
from ..cancellation import in_thread
from .saved_object import SavedObject

T = TypeVar("T")

NO_TIME = -1
"""Stands for a useless time: no file has it, so the digest decides."""


@attrs.define(kw_only=True)
class LocalFile:
    """
    A file on this machine, recognised by its path, size and time.

    Copies keep what was read before.
    """

    path: Path
    size: int
    mtime_ns: int
    request_id: str = ""
    _sha256: str | None = attrs.field(default=None, alias="sha256")
    _rows: int | None = attrs.field(default=None, alias="rows")
    _count: Callable[[BinaryIO], int] | None = attrs.field(default=None, alias="count")

    @property
    def sha256(self) -> str:
        """See `SavedExport`."""
        if self._sha256 is None:
            self._sha256 = self._read(_sha256_of)

        return self._sha256

    @property
    def rows(self) -> int | None:
        """See `SavedExport`."""
        if self._rows is None and self._count is not None:
            with suppress(StorageError):
                self._rows = self._read(self._count)

        return self._rows

    def known(self) -> dict[str, object]:
        """Return what is known without reading the file."""
        return {
            # Absolute: a later reader may be in another folder.
            "path": str(self.path),
            "mtime_ns": self.mtime_ns,
            "sha256": self._sha256,
            "rows": self._rows,
        }

    async def digest(self) -> str:
        """See `SavedExport`."""
        return await in_thread(lambda: self.sha256)

    def is_intact(self) -> bool:
        """
        Whether the file is what was saved; blocks.

        Size and time decide. Where the time differs, as after a move to another
        machine, the digest decides if it is known.
        """
        try:
            found = self.path.stat()

            if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
                return False

            if found.st_mtime_ns == self.mtime_ns:
                return True

            with self.path.open("rb") as file:
                return self._sha256 is not None and _sha256_of(file) == self._sha256
        except OSError:
            return False

    def _read(self, read: Callable[[BufferedReader], T]) -> T:
        try:
            with self.path.open("rb") as file:
                result = read(file)
                found = os.fstat(file.fileno())
        except (OSError, EOFError, zlib.error) as error:
            raise self._lost(getattr(error, "strerror", None) or str(error)) from error

        if (found.st_size, found.st_mtime_ns) != (self.size, self.mtime_ns):
            raise self._lost("it was changed after it was saved")

        return result

    def _lost(self, reason: str) -> StorageError:
        return StorageError(
            f"{self.path} has no digest: {reason}; ask for `sha256` before the file "
            f"is moved or changed",
            request_id=self.request_id,
        )


def to_record(saved: SavedExport) -> dict[str, Any]:
    """Return what `from_record()` needs, as JSON, without reading the file."""
    record = attrs.asdict(saved, filter=lambda field, _: field.name != "file")
    if saved.location is None:
        # An earlier release, beside this one, does not know it.
        del record["location"]

    return record | {
        "path": str(saved.path),
        "requested_at": saved.requested_at and saved.requested_at.isoformat(),
        **saved.file.known(),
    }


def from_record(record: Mapping[str, Any]) -> SavedExport:
    """Return the export of a record; a wrong one raises KeyError or TypeError."""
    fields = {**record}
    path = Path(fields.pop("path"))
    if fields.get("location") is not None:
        return _object_of(path, fields)

    requested_at = fields.pop("requested_at", None)
    file = LocalFile(
        path=path.absolute(),
        size=fields["size"],
        mtime_ns=fields.pop("mtime_ns", NO_TIME),
        sha256=fields.pop("sha256"),
        rows=fields.pop("rows", None),
    )

    return SavedExport(
        path=path,
        file=file,
        requested_at=_time_of(requested_at),
        **fields,
    )


def _object_of(path: Path, fields: dict[str, Any]) -> SavedExport:
    saved = SavedObject(
        size=fields["size"],
        sha256=fields.pop("sha256"),
        rows=fields.pop("rows"),
        tag=fields.pop("tag"),
    )
    requested_at = _time_of(fields.pop("requested_at"))

    return SavedExport(path=path, file=saved, requested_at=requested_at, **fields)


def _time_of(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _sha256_of(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
