"""
The lines of a journal, one for each step of a write, to resume it after a crash.

It holds the parameters, the cohort, and of each batch how many ids it had and
a digest of them: no secrets and no ids. A line is whole or it was never
written: what follows the last newline is the trace of a crash and is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import cast

import attrs

from ..errors import InvalidInputError
from .batching import Batch

VERSION = 1

_OPENING = b'{"journal":'


@attrs.frozen(kw_only=True)
class WrittenBatch:
    """
    One batch that was accepted.

    Attributes:
        operation: "upload", "add" or "remove".

        matched: Ids the service knew, if it said.
    """

    operation: str
    count: int
    digest: str
    matched: int | None = None


@attrs.define
class WriteProgress:
    """
    How far a write has come.

    Attributes:
        attempted_at: When a creating request was about to be sent whose
            answer is not known, aware UTC.

        written: The batches, in order.

        done: Whether there are no more.
    """

    cohort_id: str | None = None
    adopted: bool = False
    attempted_at: datetime | None = None
    written: list[WrittenBatch] = attrs.field(factory=list[WrittenBatch])
    done: bool = False

    def has(self, operation: str, batch: Batch, *, index: int) -> bool:
        """
        Whether a batch was written before.

        Raises:
            InvalidInputError: Another one was, in its place.
        """
        if index >= len(self.written):
            if self.done:
                raise _other_ids(index)
            return False

        before = self.written[index]

        if (before.operation, before.digest) != (operation, batch.digest):
            raise _other_ids(index)

        return True

    def check_end(self, batches: int) -> None:
        """Make sure that the ids did not end before what was written of them."""
        if batches < len(self.written):
            raise _other_ids(batches)


def _other_ids(index: int) -> InvalidInputError:
    return InvalidInputError(
        f"the journal is of a write with other ids, or in another order: batch "
        f"{index} differs; nothing was sent for it. Resume with the same ids, or "
        f"begin a new write with a new journal"
    )


def start_line(kind: str, parameters: Mapping[str, object]) -> bytes:
    """Return the first line of a journal."""
    return _line({"journal": VERSION, "kind": kind, "parameters": dict(parameters)})


def attempt_line(moment: datetime) -> bytes:
    """Return the line for a cohort that is about to be created."""
    return _line({"attempt": moment.isoformat()})


def refused_line() -> bytes:
    """Return the line for an attempt that certainly created nothing."""
    return _line({"attempt": None})


def batch_line(cohort_id: str | None, written: WrittenBatch, *, adopted: bool) -> bytes:
    """Return the line for a batch that was accepted."""
    return _line({"cohort": cohort_id, "adopted": adopted, **attrs.asdict(written)})


def done_line() -> bytes:
    """Return the line for the end: all batches were accepted."""
    return _line({"done": True})


@attrs.frozen
class ParsedJournal:
    """
    A journal as it was found on disk.

    Attributes:
        kind: What wrote it: "upload" or "membership"; None when it is empty.

        good: Bytes of it that are whole lines.
    """

    kind: str | None
    parameters: Mapping[str, object]
    progress: WriteProgress
    good: int


def parse(content: bytes) -> ParsedJournal:
    """
    Return what a journal holds, whatever moment it was cut at.

    Raises:
        InvalidInputError: It is not a journal, or is of a later release.
    """
    good = content.rfind(b"\n") + 1
    lines = content[:good].splitlines()
    parsed = ParsedJournal(None, {}, WriteProgress(), good)

    # A foreign file must not be truncated, even if it is a single line.
    if not content.startswith(_OPENING[: len(content)]):
        raise InvalidInputError(
            "this file is not a journal, and was left as it is; give the path of a "
            "journal that an upload or update wrote, or a path where no file is"
        )

    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if number == 1:
                parsed = _begin(record, good)
            else:
                _apply(parsed.progress, record)
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInputError(
                f"this file is not a journal, or is damaged, at line {number}; give the "
                f"path of a journal that an upload or update wrote, or a path where no "
                f"file is"
            ) from error

    return parsed


def check_same(
    parsed: ParsedJournal, kind: str, parameters: Mapping[str, object]
) -> WriteProgress:
    """
    Return the progress of the write that goes on.

    Raises:
        InvalidInputError: The journal is of another one.
    """
    if parsed.kind is None:
        return WriteProgress()

    if parsed.kind != kind:
        raise InvalidInputError(
            f"the journal is of another kind of write, {parsed.kind}, not {kind}; "
            f"use a journal of its own for each write"
        )

    for name in sorted({*parameters, *parsed.parameters}):
        before, now = parsed.parameters.get(name), parameters.get(name)
        if before != now:
            raise InvalidInputError(
                f"the journal is of a write with {name}={before!r}, and this one has "
                f"{now!r}; resume with the same parameters, or begin a new journal"
            )

    return parsed.progress


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _begin(record: Mapping[str, object], good: int) -> ParsedJournal:
    parameters = record["parameters"]

    if record["journal"] != VERSION or not isinstance(parameters, dict):
        raise ValueError(f"journal version {record['journal']!r}")

    return ParsedJournal(
        str(record["kind"]),
        cast("dict[str, object]", parameters),
        WriteProgress(),
        good,
    )


def _apply(progress: WriteProgress, record: Mapping[str, object]) -> None:
    if "attempt" in record:
        moment = record["attempt"]
        progress.attempted_at = (
            None if moment is None else datetime.fromisoformat(str(moment))
        )
    elif "done" in record:
        progress.done = True
    else:
        cohort_id, matched = record["cohort"], record["matched"]
        progress.cohort_id = None if cohort_id is None else str(cohort_id)
        progress.adopted = bool(record["adopted"])
        progress.attempted_at = None
        progress.written.append(
            WrittenBatch(
                operation=str(record["operation"]),
                count=int(str(record["count"])),
                digest=str(record["digest"]),
                matched=None if matched is None else int(str(matched)),
            )
        )
