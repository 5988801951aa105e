"""
What a run over many cohorts has spent and saved, line by line on disk.

A line is written when an export was requested and when its file is whole, so
that a run that died is taken up without spending anything twice. No secrets,
and no ids of people.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import attrs

from ..models import SavedExport
from .threads import in_thread

NAME = ".amplitude-exports.jsonl"
_VERSION = 1


@attrs.define
class Past:
    """
    What earlier lines told.

    Attributes:
        requested: Tokens of exports whose file is not whole yet, by key.

        saved: Files that are whole, by key.

        in_run: Keys of the files that the run that died had saved already.
    """

    requested: dict[str, str] = attrs.field(factory=dict)
    saved: dict[str, SavedExport] = attrs.field(factory=dict)
    in_run: set[str] = attrs.field(factory=set)


class Ledger:
    """
    One directory's record of its exports.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._thread = anyio.CapacityLimiter(1)

    async def load(self) -> Past:
        """
        Read what earlier runs wrote; a line cut by a crash is passed over.
        """
        return await in_thread(self._load, self._thread)

    async def requested(self, key: str, token: str) -> None:
        """
        Take note of an export that was spent.
        """
        await self._append({"key": key, "token": token})

    async def saved(self, key: str, saved: SavedExport) -> None:
        """
        Take note of a file that is whole.
        """
        await in_thread(lambda: self._write(_line(key, saved)), self._thread)

    async def finished(self, past: Past) -> None:
        """
        Take note that the run came to its end, and forget how.
        """
        await in_thread(lambda: self._rewrite(past), self._thread)

    async def _append(self, line: Mapping[str, object]) -> None:
        await in_thread(lambda: self._write(line), self._thread)

    def _load(self) -> Past:
        past = Past()

        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return past

        for text in lines:
            # What a crash cut short was not promised to anybody.
            with suppress(ValueError, KeyError, TypeError):
                _read(json.loads(text), past)

        return past

    def _write(self, line: Mapping[str, object]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        handle = os.open(self._path, flags, 0o666)

        try:
            # A line that a crash cut must not swallow the next one.
            start = b"" if _ends_in_newline(self._path) else b"\n"
            os.write(handle, start + json.dumps(line).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)

    def _rewrite(self, past: Past) -> None:
        part = self._path.with_suffix(".part")
        lines = [_line(key, saved) for key, saved in past.saved.items()]
        lines.append({"finished": _VERSION})
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))
        part.replace(self._path)


def _line(key: str, saved: SavedExport) -> dict[str, object]:
    # In a worker thread: a digest nobody asked for yet is worked out here.
    return {"key": key, "saved": attrs.asdict(saved) | {"path": str(saved.path)}}


def _read(line: Mapping[str, object], past: Past) -> None:
    key, token, saved = line.get("key"), line.get("token"), line.get("saved")

    if "finished" in line:
        past.in_run.clear()
    elif isinstance(key, str) and isinstance(token, str):
        past.requested[key] = token
    elif isinstance(key, str) and isinstance(saved, dict):
        past.requested.pop(key, None)
        attributes: dict[str, Any] = saved | {"path": Path(saved["path"])}
        past.saved[key] = SavedExport(**attributes)
        past.in_run.add(key)


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))

        return file.read(1) in {b"", b"\n"}
