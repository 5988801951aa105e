"""A form with a file, streamed into a file of ours whose size is limited."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO

import attrs
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from ..fastapi.problems import ProblemError

__all__ = ("MOST_BYTES", "Received", "receive", "sweep")

MOST_BYTES = 256 * 1024**2
"""Two million ids of a hundred characters, and more."""

_MOST_OF_FIELDS = 16 * 1024
_PREFIX = "received-"
_OLD = 3600.0
"""Seconds until a file is one that a killed process has left."""


@attrs.frozen
class Received:
    """
    A form that was received.

    Attributes:
        path: The file, which the receiver deletes.
        file_name: What the browser calls it; only shown.
        digest: SHA-256 of the file.
    """

    fields: dict[str, str]
    path: Path
    file_name: str
    digest: str

    async def discard(self) -> None:
        """Delete the file."""
        await asyncio.to_thread(self.path.unlink, missing_ok=True)


async def receive(
    chunks: AsyncIterator[bytes], content_type: str, folder: Path, *, most: int
) -> Received:
    """
    Write the file of a form into *folder*, and return it with the fields.

    Args:
        most: Bytes that the whole form may have. A longer one is read to its end, as a
            browser hears no answer before that, but not written.

    Raises:
        ProblemError: It is too long, no form with a file, or the disk is full.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if boundary is None:
        raise _malformed()

    try:
        form = await asyncio.to_thread(_Form, boundary, folder)
    except FormParserError:
        raise _malformed() from None
    received = 0

    try:
        async for chunk in chunks:
            received += len(chunk)
            if received <= most:
                await asyncio.to_thread(form.feed, chunk)
        _check_size(received, most)
        return await asyncio.to_thread(form.finish)
    except BaseException as error:
        await asyncio.to_thread(form.discard)
        if isinstance(error, OSError):
            raise ProblemError(
                HTTPStatus.INSUFFICIENT_STORAGE,
                f"the file cannot be written: {error.strerror or error}; nothing was "
                f"sent to Amplitude",
            ) from None
        if isinstance(error, FormParserError | UnicodeDecodeError | ClientDisconnect):
            raise _malformed() from None
        raise


def sweep(folder: Path) -> None:
    """Delete the files that processes left which were killed."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            if path.stat().st_mtime < time.time() - _OLD:
                path.unlink()
        except OSError:  # somebody else was faster, or has it open
            continue


class _Form:
    """Takes a form apart: its fields into memory, its file onto the disk."""

    def __init__(self, boundary: bytes, folder: Path) -> None:
        self._digest = sha256()
        self._fields: dict[str, str] = {}
        self._of_fields = 0
        self._file_name: str | None = None
        self._header = [b"", b""]
        self._options: dict[bytes, bytes] = {}
        self._value = b""
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, a, b: self._on_header(0, data[a:b]),
                "on_header_value": lambda data, a, b: self._on_header(1, data[a:b]),
                "on_header_end": self._end_header,
                "on_part_data": lambda data, a, b: self._on_data(data[a:b]),
                "on_part_end": self._end,
                "on_end": self._end_form,
            },
        )
        # After the parser, which refuses a boundary that is too long.
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(  # noqa: SIM115
            prefix=_PREFIX, dir=folder, delete=False
        )

    def feed(self, chunk: bytes) -> None:
        """Take a chunk of the form."""
        self._parser.write(chunk)

    def finish(self) -> Received:
        """Return what was received."""
        self._parser.finalize()
        self._file.close()

        if not self._is_whole or not self._file_name:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "no file was chosen; choose one"
            )

        return Received(
            self._fields,
            Path(self._file.name),
            PurePosixPath(self._file_name.replace("\\", "/")).name,
            self._digest.hexdigest(),
        )

    def discard(self) -> None:
        """Delete the file."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)

    @property
    def _is_file(self) -> bool:
        return b"filename" in self._options

    def _begin(self) -> None:
        self._header = [b"", b""]
        self._options = {}
        self._value = b""

    def _on_header(self, side: int, data: bytes) -> None:
        self._header[side] += data

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._options = parse_options_header(value)[1]
        self._header = [b"", b""]

    def _on_data(self, data: bytes) -> None:
        if self._is_file:
            self._file.write(data)
            self._digest.update(data)
            return

        self._value += data
        self._of_fields += len(data)
        if self._of_fields > _MOST_OF_FIELDS:
            raise FormParserError("the fields are too long")

    def _end(self) -> None:
        if self._is_file:
            if self._file_name is not None:
                raise FormParserError("there is more than one file")
            self._file_name = self._options[b"filename"].decode("utf-8", "replace")
            return

        name = self._options.get(b"name", b"").decode()
        self._fields[name] = self._value.decode()

    def _end_form(self) -> None:
        self._is_whole = True


def _check_size(received: int, most: int) -> None:
    if received > most:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the form has {received:,} bytes, and the page takes {most:,}; nothing was "
            f"sent to Amplitude. Use the command for larger files",
        )


def _malformed() -> ProblemError:
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "this is no form of the page; load it again",
    )
