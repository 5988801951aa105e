"""
The writes of the page: an upload or a sync, checked first, then done on a second button.

Each is a task of the worker, and has one file, which goes when the task ends. They are
known to this process alone: what it left in the middle begins again with the same file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeAlias

import attrs

from ... import CohortsClient, read_ids
from ...errors import CohortsError, InvalidInputError, RemovalGuardError
from ...events import BatchWritten, Event
from ...models import (
    IdType,
    MembershipOperation,
    MembershipReport,
    SyncReport,
    UploadReport,
)
from ...types import IdFile
from ..fastapi.problems import ProblemError
from ..fastapi.worker import Worker
from .received import Received

__all__ = ("Write", "WriteOrder", "Writes", "count_written")

_PATIENCE = 900.0
"""Seconds that a file waits for the second button."""

_FOR_CODE = "pass read_ids(path, column=...)"
_FOR_PEOPLE = "name the column of the ids in the form"

_MOST_SHOWN = 20
_ID_TYPES = {"user": IdType.USER_ID, "amplitude": IdType.AMPLITUDE_ID}

WriteState: TypeAlias = Literal[
    "checking", "checked", "writing", "done", "failed", "discarded"
]

_logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class WriteOrder:
    """
    What a form asks for.

    Attributes:
        name: Of the cohort to create; None for a sync.
        cohort_id: Of the cohort to sync; None for an upload.
        column: Of the ids in the file; None for one id a line.
        max_removed: The share of the members that a sync removes without a question.
    """

    id_type: IdType
    name: str | None = None
    cohort_id: str | None = None
    column: str | None = None
    max_removed: float = 0.5

    @classmethod
    def of(cls, fields: dict[str, str]) -> WriteOrder:
        """
        Return the order of a form.

        Raises:
            ProblemError: A field is missing or invalid.
        """
        name = fields.get("name", "").strip() or None
        cohort_id = fields.get("cohort_id", "").strip() or None
        id_type = _ID_TYPES.get(fields.get("id_type", ""))
        share = fields.get("max_removed", "50")

        if (name is None) == (cohort_id is None):
            raise _invalid(
                "give the name of a new cohort, or the id of an existing one"
            )
        if id_type is None:
            raise _invalid("choose what the ids are")
        if not (share.isascii() and share.isdigit()) or int(share) > 100:  # noqa: PLR2004
            raise _invalid("the share that may be removed is a number from 0 to 100")

        return cls(
            id_type=id_type,
            name=name,
            cohort_id=cohort_id,
            column=fields.get("column", "").strip() or None,
            max_removed=int(share) / 100,
        )


@attrs.define(eq=False, kw_only=True)
class Write:
    """
    An upload or a sync, as the page shows it.

    Attributes:
        total: Ids of the file, counted so far.
        namesakes: The ids of other cohorts of the new one's name.
        goes_on: Whether an upload of this file was begun before.
        report: What was compared; None for an upload.
        guard: Why a sync needs the number of removals from a person.
        written: Ids that were written so far.
        result: What was done.
        error: Why it failed.
        token: Of the export that was spent for it, if it failed after that.
    """

    id: str
    order: WriteOrder
    file_name: str
    state: WriteState = "checking"
    total: int = 0
    namesakes: list[str] = attrs.field(factory=list[str])
    goes_on: bool = False
    report: SyncReport | None = None
    guard: str | None = None
    written: int = 0
    result: UploadReport | MembershipReport | None = None
    error: str | None = None
    token: str | None = None
    confirmed: asyncio.Event = attrs.field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in {"done", "failed", "discarded"}

    @property
    def is_running(self) -> bool:
        """Whether it changes by itself."""
        return self.state in {"checking", "writing"}

    @property
    def to_write(self) -> int:
        """How many ids are to be written."""
        if self.report is None:
            return self.total

        return len(self.report.add) + len(self.report.remove)


_CURRENT: ContextVar[Write | None] = ContextVar("_CURRENT", default=None)


def count_written(event: Event) -> None:
    """Count the ids of a batch for the write that sent it: a client's hook."""
    write = _CURRENT.get()

    if write is not None and isinstance(event, BatchWritten):
        write.written += event.ids


class Writes:
    """
    The writes of a process.

    Attributes:
        folder: Where files and journals are.
        instance: Names the process: the form of an earlier one does nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instance: str = secrets.token_hex(4)
        self._writes: dict[str, Write] = {}

    def new_key(self) -> str:
        """Return a key for a form."""
        return f"{self.instance}-{secrets.token_urlsafe(16)}"

    def shown(self) -> list[Write]:
        """Return the latest ones, the latest first."""
        return [*self._writes.values()][::-1]

    async def begin(self, worker: Worker, received: Received) -> Write:
        """
        Begin what a form asks for, once for each key; takes its file.

        Raises:
            ProblemError: A field is invalid, or the form is of an earlier process.
        """
        try:
            order = WriteOrder.of(received.fields)
            name = self._id_of(received.fields.get("key", ""))
        except ProblemError:
            await received.discard()
            raise

        if name in self._writes:
            await received.discard()
            return self._writes[name]

        write = Write(id=name, order=order, file_name=received.file_name)
        self._writes[name] = write
        self._forget_old()
        write.task = worker.begin(self._run(worker.client, write, received))
        # One that is cancelled before its first step would leave its file.
        await asyncio.sleep(0)

        return write

    def confirm(self, name: str, removals: str) -> Write:
        """
        Let a write begin that was checked; of one that has begun, do nothing.

        Args:
            removals: How many removals a person expects, where the guard asks.

        Raises:
            ProblemError: There is nothing to confirm, or the number is another one.
        """
        write = self._find(name)

        if write.state in {"checking", "discarded"}:
            raise ProblemError(HTTPStatus.CONFLICT, f"it is {write.state}; look again")
        if write.state == "checked" and write.guard is not None:
            wanted = 0 if write.report is None else len(write.report.remove)
            if removals.strip().replace(",", "") != str(wanted):
                raise _invalid(
                    f"nothing was written: to remove that many, type {wanted}, the "
                    f"number of members that go"
                )

        if write.state == "checked":
            write.state = "writing"
            write.confirmed.set()

        return write

    async def discard(self, name: str) -> Write:
        """
        Give up a write that has not begun.

        Raises:
            ProblemError: It has.
        """
        write = self._find(name)

        if write.confirmed.is_set() or write.is_over:
            raise ProblemError(
                HTTPStatus.CONFLICT, f"it cannot stop: it is {write.state}"
            )
        if write.task is not None:
            write.task.cancel()
            await asyncio.wait([write.task])

        return write

    def _find(self, name: str) -> Write:
        if name not in self._writes:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                "the command does not know it any more; choose the file again",
            )

        return self._writes[name]

    def _id_of(self, key: str) -> str:
        if not key.startswith(f"{self.instance}-"):
            raise ProblemError(
                HTTPStatus.CONFLICT,
                "this form is of an earlier run of the command, which may have done it; "
                "load the page again and choose the file again: an upload that ended in "
                "the middle goes on where it stopped",
            )

        return sha256(key.encode()).hexdigest()[:16]

    def _forget_old(self) -> None:
        # Their forms may be sent again, so that the newest of them stay.
        over = [name for name, write in self._writes.items() if write.is_over]
        for name in over[:-_MOST_SHOWN]:
            del self._writes[name]

    async def _run(
        self, client: CohortsClient, write: Write, received: Received
    ) -> None:
        _CURRENT.set(write)

        async with _ended(write, received):
            ids = read_ids(received.path, column=write.order.column)
            journal = self.folder / f"{_digest(write.order, received)}.journal"
            await _check(client, write, ids, journal)
            write.state = "checked"
            async with asyncio.timeout(_PATIENCE):
                await write.confirmed.wait()
            write.result = await _write(client, write, ids, journal)
            await asyncio.to_thread(journal.unlink, missing_ok=True)


async def _check(
    client: CohortsClient, write: Write, ids: IdFile, journal: Path
) -> None:
    """Find out what would be done; nothing is sent of a file that has an error."""
    order = write.order

    async for _ in ids:
        write.total += 1
    if not write.total:
        raise InvalidInputError(f"{write.file_name} has no ids; choose another file")

    if order.cohort_id is None:
        write.goes_on = await asyncio.to_thread(journal.exists)
        if not write.goes_on:
            write.namesakes = [
                each.id
                for each in await client.list_cohorts()
                if each.name == order.name
            ]
        return

    write.report = await client.sync_membership(
        order.cohort_id, ids, id_type=order.id_type, dry_run=True
    )
    try:
        write.report.check_removals(order.max_removed)
    except RemovalGuardError:
        removed = len(write.report.remove)
        members = removed + write.report.kept
        write.guard = (
            f"This would remove {removed:,} of the {members:,} members, "
            f"{removed / members:.0%}, and the form allows {order.max_removed:.0%}. "
            f"Nothing was written."
        )


async def _write(
    client: CohortsClient, write: Write, ids: IdFile, journal: Path
) -> UploadReport | MembershipReport:
    """Do what was checked."""
    order, report = write.order, write.report

    if order.name is not None:
        return await client.upload_cohort(
            order.name, ids, id_type=order.id_type, journal=journal
        )

    if report is None or not (report.add or report.remove):
        return MembershipReport(cohort_id=str(order.cohort_id))

    changes = [
        MembershipOperation("ADD", report.add, order.id_type),
        MembershipOperation("REMOVE", report.remove, order.id_type),
    ]
    return await client.update_membership(
        report.cohort_id,
        operations=reversed(changes) if report.remove_first else changes,
    )


@asynccontextmanager
async def _ended(write: Write, received: Received) -> AsyncGenerator[None]:
    """
    Note how a write ended, once its file is gone.

    Why it failed is told to somebody who knows the file by its own name.
    """
    state: WriteState = "done"

    try:
        yield
    except CohortsError as error:
        text = str(error).replace(str(received.path), write.file_name)
        write.error = text.replace(_FOR_CODE, _FOR_PEOPLE)
        write.token = error.token
        state = "failed"
    except TimeoutError:
        state = "discarded"
    except asyncio.CancelledError:
        state = "discarded"
        raise
    except Exception as error:  # the others go on
        _logger.exception("a write of the page failed")
        write.error = (
            f"it failed unexpectedly ({type(error).__name__}); what the command "
            f"printed says more"
        )
        state = "failed"
    finally:
        await received.discard()
        write.state = state


def _digest(order: WriteOrder, received: Received) -> str:
    """Return a name that the same upload has again."""
    parts = [received.digest, order.name, order.id_type.value, order.column]

    return sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _invalid(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
