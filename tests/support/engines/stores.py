"""The job stores of the scenes, each of which can be away for some seconds."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from ..postgres import Postgres
    from ..valkey import Valkey


class Store(Protocol):
    """A job store."""

    @property
    def url(self) -> str:
        """What AMPLITUDE_JOBS says."""
        ...

    async def away(self, seconds: float) -> None:
        """Let nobody reach it for some time."""
        ...


@attrs.frozen
class FileStore:
    """A file, which somebody else locks."""

    path: Path

    @property
    def url(self) -> str:
        """The path."""
        return str(self.path)

    async def away(self, seconds: float) -> None:
        """Lock the file."""
        with closing(self._connect()) as connection:
            await asyncio.to_thread(connection.execute, "BEGIN EXCLUSIVE")
            await asyncio.sleep(seconds)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30, check_same_thread=False)


@attrs.frozen
class ServerStore:
    """A Valkey or a Postgres, which hangs."""

    server: Valkey | Postgres

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.url

    async def away(self, seconds: float) -> None:
        """Stop its processes."""
        self.server.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.server.thaw()
