"""
Two sets of ids compared on disk, with memory that does not grow with them.

Ids are dealt into small files by a checksum, equal ids into the same one, and
the files are compared one by one. Everything here blocks and is called in
worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TextIO
from zlib import crc32

WORDS: Sequence[str] = ("entering", "exiting", "existing")

PILES = 128
"""
Small files for each side: two million ids make piles of 16,000, which compare
in a few milliseconds, and all of one side's can be open at once.
"""


class Piles:
    """
    One side, dealt into files.
    """

    def __init__(self, folder: Path, side: str) -> None:
        self._stack = ExitStack()
        self._files = [
            self._stack.enter_context(_text(folder / f"{side}.{pile}", "w"))
            for pile in range(PILES)
        ]

    def add(self, ids: Iterable[str]) -> None:
        """
        Deal ids out.
        """
        for id_ in ids:
            self._files[crc32(id_.encode()) % PILES].write(f"{id_}\n")

    def close(self) -> None:
        """
        Hand everything to the disk.
        """
        self._stack.close()


class ThreeFiles:
    """
    The three files people know: who enters, who leaves, who stays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.counts = dict.fromkeys(WORDS, 0)
        self._files = {
            word: self._stack.enter_context(_text(folder / f"{word}.txt", "w"))
            for word in WORDS
        }

    def add(self, word: str, ids: Iterable[str]) -> None:
        """
        Append ids to one of the files.
        """
        for id_ in ids:
            self._files[word].write(f"{id_}\n")
            self.counts[word] += 1

    def close(self) -> None:
        """
        Let go of the files.
        """
        self._stack.close()

    def publish(self, folder: Path) -> Mapping[str, int]:
        """
        Put the files, now whole, where they belong; tell how many ids each has.
        """
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

        self.close()

        for word in WORDS:
            (self._folder / f"{word}.txt").replace(folder / f"{word}.txt")

        return self.counts


def count_piles(folder: Path, side: str) -> int:
    """
    Count the different ids of one side.
    """
    return sum(len(_ids(folder / f"{side}.{pile}")) for pile in range(PILES))


def compare_piles(folder: Path, pile: int, files: ThreeFiles) -> None:
    """
    Compare one pair of piles.
    """
    wanted = _ids(folder / f"wanted.{pile}")
    current = _ids(folder / f"current.{pile}")

    files.add("entering", (id_ for id_ in wanted if id_ not in current))
    files.add("existing", (id_ for id_ in wanted if id_ in current))
    files.add("exiting", (id_ for id_ in current if id_ not in wanted))


def _ids(path: Path) -> dict[str, None]:
    with _text(path, "r") as file:
        return dict.fromkeys(file.read().split("\n")[:-1])


def _text(path: Path, mode: Literal["r", "w"]) -> TextIO:
    # No translation: nothing but a newline ends an id.
    return path.open(mode, encoding="utf-8", newline="\n")
