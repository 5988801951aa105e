"""The job store that `export_many()` keeps in its directory, if its client has none."""

from __future__ import annotations

from pathlib import Path

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
