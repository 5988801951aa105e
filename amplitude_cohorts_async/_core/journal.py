"""
The lines of a journal, one for each step of a write, to resume it after a crash.

It holds the parameters, the cohort, and the count and digest of each batch: no
secrets and no ids. What follows the last newline was cut off by a crash and is
dropped.
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

    `operation` is "upload", "add" or "remove", and `part` the position of the operation
    in the update; `matched` counts the ids that the service knew, if it said so.
    """

    operation: str
    count: int
    digest: str
    matched: int | None = None
    part: int = 0


@attrs.define
class WriteProgress:
    """
    How far a write has come.

    `attempted_at`, aware UTC, is when a creating request was about to be sent whose
    answer is not known. `done` says that all batches are written.
    """

    cohort_id: str | None = None
    adopted: bool = False
    attempted_at: datetime | None = None
    written: list[WrittenBatch] = attrs.field(factory=list[WrittenBatch])
    done: bool = False

    def has(self, operation: str, batch: Batch, *, index: int, part: int = 0) -> bool:
        """
        Whether a batch was written before; raises `InvalidInputError` if another was.
        """
        if index >= len(self.written):
            if self.done:
                raise _other_ids(index)
            return False

        before = self.written[index]

        if (before.operation, before.part, before.digest) != (
            operation,
            part,
            batch.digest,
        ):
            raise _other_ids(index)

        return True

    def check_end(self, batches: int) -> None:
        """Raise `InvalidInputError` if fewer batches came than were written."""
        if batches < len(self.written):
            raise _other_ids(batches)


def _other_ids(index: int) -> InvalidInputError:
    return InvalidInputError(
        f"the journal is of a write with other ids, or in another order: batch "
        f"{index} differs, and was not sent; resume with the same ids, or begin a new "
        f"write with a new journal"
    )


def start_line(kind: str, parameters: Mapping[str, object]) -> bytes:
    """Return the first line of a journal."""
    return _line({"journal": VERSION, "kind": kind, "parameters": dict(parameters)})


def attempt_line(time: datetime | None) -> bytes:
    """
    Return the line for a cohort that is about to be created.

    None says that the last attempt certainly created nothing.
    """
    return _line({"attempt": time and time.isoformat()})


def batch_line(cohort_id: str | None, written: WrittenBatch, *, adopted: bool) -> bytes:
    """Return the line for a batch that was accepted."""
    return _line({"cohort": cohort_id, "adopted": adopted, **attrs.asdict(written)})


def done_line() -> bytes:
    """Return the last line: all batches were accepted."""
    return _line({"done": True})


@attrs.frozen
class ParsedJournal:
    """
    A journal as it was found on disk; its first `good` bytes are whole lines.

    `kind` is "upload" or "membership", or None when the journal is empty.
    """

    kind: str | None
    parameters: Mapping[str, object]
    progress: WriteProgress
    good: int


def parse(content: bytes) -> ParsedJournal:
    """
    Return the content of a journal, wherever it was cut off.

    Raises `InvalidInputError` if it is not a journal, or of a later release.
    """
    good = content.rfind(b"\n") + 1
    lines = content[:good].splitlines()
    parsed = ParsedJournal(None, {}, WriteProgress(), good)

    # Another file must not be truncated, even if it is a single line.
    if not content.startswith(_OPENING[: len(content)]):
        raise InvalidInputError(
            "this file is not a journal, and was left as it is; pass the path of a "
            "journal that an upload or update wrote, or of a new file"
        )

    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if number == 1:
                parsed = _read_start(record, good)
            else:
                _read_step(parsed.progress, record)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidInputError(
                f"this file is not a journal, or is damaged, at line {number}; pass the "
                f"path of a journal that an upload or update wrote, or of a new file"
            ) from error

    return parsed


def check_same(
    parsed: ParsedJournal, kind: str, parameters: Mapping[str, object]
) -> WriteProgress:
    """Return the progress of this write, or raise `InvalidInputError`."""
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


def _read_start(record: Mapping[str, object], good: int) -> ParsedJournal:
    parameters = record["parameters"]

    if record["journal"] != VERSION or not isinstance(parameters, dict):
        raise ValueError(f"journal version {record['journal']!r}")

    return ParsedJournal(
        str(record["kind"]),
        cast("dict[str, object]", parameters),
        WriteProgress(),
        good,
    )


def _read_step(progress: WriteProgress, record: Mapping[str, object]) -> None:
    if "attempt" in record:
        time = record["attempt"]
        progress.attempted_at = (
            None if time is None else datetime.fromisoformat(str(time))
        )
    elif "done" in record:
        progress.done = True
    else:
        cohort_id, matched = record["cohort"], record["matched"]
        operation = str(record["operation"])
        progress.cohort_id = None if cohort_id is None else str(cohort_id)
        progress.adopted = bool(record["adopted"])
        progress.attempted_at = None
        progress.written.append(
            WrittenBatch(
                operation=operation,
                count=int(str(record["count"])),
                digest=str(record["digest"]),
                matched=None if matched is None else int(str(matched)),
                part=int(str(record.get("part", int(operation == "remove")))),
            )
        )
