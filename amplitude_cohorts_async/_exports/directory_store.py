"""The job store that `export_many()` keeps in its directory, if its client has none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio

from .._io.jobs.base import JobStore
from .._io.jobs.memory import MemoryJobStore
from .._io.jobs.paired import PairedJobStore
from .._io.jobs.sqlite import SqliteJobStore

NAME = ".amplitude-exports.db"


def directory_store(store: JobStore, directory: Path) -> JobStore:
    """
    Return the store of a run in a directory.

    A store that does not outlive the process gets one in the directory beside it.
    """
    if store.durable or not isinstance(store, MemoryJobStore):
        return store

    beside = SqliteJobStore(directory / NAME, journal_mode="DELETE")

    return PairedJobStore(store, beside)


async def stores_of_directories(
    store: JobStore, paths: Iterable[str]
) -> list[JobStore]:
    """Return the stores that were left beside these files, each together with *store*."""
    if directory_store(store, Path()) is store:
        return []

    directories = {Path(path).parent for path in paths}

    return [
        directory_store(store, directory)
        for directory in sorted(directories)
        if await anyio.Path(directory / NAME).exists()
    ]
