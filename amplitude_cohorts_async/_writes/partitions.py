"""
Two sets of ids compared on disk, with memory that does not grow with them.

A checksum of each id chooses its partition, a small file, so that equal ids of both
sides are in partitions of one number, which are compared one after the other.
Everything here blocks and is called in worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TextIO
from zlib import crc32

DIFF_FILES: Sequence[str] = ("entering", "exiting", "existing")

PARTITIONS = 128
"""
Partitions of each side: of two million ids each has 16,000, which compare in a
few milliseconds, and all of one side's can be open at once.
"""


class Partitions:
    """One side's partitions, open for writing."""

    def __init__(self, folder: Path, side: str) -> None:
        self._stack = ExitStack()
        self._files = [
            self._stack.enter_context(_text(folder / f"{side}.{index}", "w"))
            for index in range(PARTITIONS)
        ]

    def add(self, ids: Iterable[str]) -> None:
        """Write each id to its partition."""
        for id_ in ids:
            self._files[crc32(id_.encode()) % PARTITIONS].write(f"{id_}\n")

    def close(self) -> None:
        """Flush and close the files."""
        self._stack.close()


class DiffFiles:
    """The files ``entering.txt``, ``exiting.txt`` and ``existing.txt``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.counts = dict.fromkeys(DIFF_FILES, 0)
        self._files = {
            name: self._stack.enter_context(_text(folder / f"{name}.txt", "w"))
            for name in DIFF_FILES
        }

    def add(self, name: str, ids: Iterable[str]) -> None:
        """Append ids to one of the files."""
        for id_ in ids:
            self._files[name].write(f"{id_}\n")
            self.counts[name] += 1

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def publish(self, folder: Path) -> Mapping[str, int]:
        """Move the files, now whole, to *folder*; return how many ids each has."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

        self.close()

        for name in DIFF_FILES:
            (self._folder / f"{name}.txt").replace(folder / f"{name}.txt")

        return self.counts


def count_distinct(folder: Path, side: str) -> int:
    """Return how many different ids one side has."""
    return sum(len(_ids(folder / f"{side}.{index}")) for index in range(PARTITIONS))


def compare_partition(folder: Path, index: int, files: DiffFiles) -> None:
    """Compare the partitions of one number."""
    wanted = _ids(folder / f"wanted.{index}")
    current = _ids(folder / f"current.{index}")

    files.add("entering", (id_ for id_ in wanted if id_ not in current))
    files.add("existing", (id_ for id_ in wanted if id_ in current))
    files.add("exiting", (id_ for id_ in current if id_ not in wanted))


def _ids(path: Path) -> dict[str, None]:
    with _text(path, "r") as file:
        return dict.fromkeys(file.read().split("\n")[:-1])


def _text(path: Path, mode: Literal["r", "w"]) -> TextIO:
    # No translation: nothing but a newline ends an id.
    return path.open(mode, encoding="utf-8", newline="\n")
