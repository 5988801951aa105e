"""
Every step of a call crossed with everything that can go wrong in it.

`python tests/support/fault_matrix.py` writes `docs/fault-matrix.md` from a run.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar
from unittest import mock

import attrs

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._io.sinks import part_file
from amplitude_cohorts_async._writes import batches as batches_module
from amplitude_cohorts_async._writes import id_stream as id_stream_module
from amplitude_cohorts_async.errors import (
    AmbiguousExportError,
    AmbiguousUploadError,
    CohortsError,
    JobStoreUnavailableError,
)
from amplitude_cohorts_async.jobs import JobStore, MemoryJobStore, SqliteJobStore
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.models import IdType
from amplitude_cohorts_async.policies import Polling, Retrying
from amplitude_cohorts_async.testing import FakeClock, Quotas, faults
from amplitude_cohorts_async.testing.http import Exchange
from amplitude_cohorts_async.testing.quotas import RequestRecord
from support.canary import API_KEY, SECRET_KEY
from support.fault_wire import API, WIRE_FAULTS, NamedEmulator, Names, named, sockets

T = TypeVar("T")

Mode = Literal["once", "always"]
MODES: tuple[Mode, ...] = ("once", "always")
COHORT = "26umsb5"
NAME = "Buyers"
MEMBERS = [f"user-{n}-{n * 7919}" for n in range(300)]
BEFORE = [f"user-{n}" for n in range(15)]
WANTED = [f"user-{n}" for n in range(10, 35)]
SILENT = "silent, done"
MIDDLE = 1_000

PACKAGE = "amplitude_cohorts_async"


# -- Steps and faults --------------------------------------------------------


@attrs.frozen
class Step:
    """
    A step of a call that somebody else answers.

    Attributes:
        at: The emulator's word for it.
        nth: Which of those in the call it is, from 1 on.
        connection: Which of the call's connections it takes, if each has its own.
        first: What has to happen before, so that the step comes at all.
    """

    at: faults.Step
    nth: int = 1
    connection: int | None = None
    first: tuple[faults.Fault, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether its answer is the file."""
        return "store" == self.at


STEPS: Mapping[str, Mapping[str, Step]] = {
    "export": {
        "usage": Step("usage", connection=1),
        "request": Step("export", connection=2),
        "first poll": Step("status", connection=3),
        "last poll": Step("status", 2, connection=4),
        "link": Step("file", connection=5),
        "file": Step("store", connection=6),
        "rest of the file": Step("store", 2, first=(faults.cut_off(MIDDLE),)),
    },
    "upload": {
        "create": Step("upload", connection=1),
        "second batch": Step("membership", connection=2),
        "last batch": Step("membership", 2, connection=3),
    },
    "update": {
        "add": Step("membership", connection=1),
        "last add": Step("membership", 3, connection=3),
        "remove": Step("membership", 4, connection=4),
    },
    "sync": {
        "request": Step("export", connection=2),
        "file": Step("store", connection=6),
        "add": Step("membership", connection=7),
        "remove": Step("membership", 3, connection=9),
    },
}

NOTHING_DONE = faults.broken(500)
ANSWERS: Mapping[str, faults.Fault] = {
    "400": faults.refused(400, "bad request"),
    "403": faults.refused(403, "forbidden"),
    "404": faults.refused(404, "not found"),
    "412": faults.refused(412, "precondition failed"),
    "416": faults.refused(416, "range not satisfiable"),
    "429": faults.throttled(),
    "500": faults.broken(500),
    "503": faults.broken(503),
    "a web page": faults.html(),
    "closed, nothing done": NOTHING_DONE | faults.lost_answer(),
    "closed, done": faults.lost_answer(),
    "reset, nothing done": NOTHING_DONE | faults.lost_answer(),
    "reset, done": faults.lost_answer(),
    SILENT: faults.hang(),
}
BODIES: Mapping[str, faults.Fault] = {
    "cut at the first byte": faults.cut_off(0),
    "cut in the middle": faults.cut_off(MIDDLE),
    "cut at the last byte": faults.cut_off(1_000_000),
    "reset in the middle": faults.cut_off(MIDDLE),
    "cut, without a length": (
        faults.cut_off(MIDDLE) | faults.with_header("Content-Length", None)
    ),
    "stalled": faults.stalled(MIDDLE),
    "dripping": faults.slow(1_000),
    "one bit wrong": faults.corrupt(MIDDLE // 2),
    "a compressed file that ends early": faults.torn(-9),
    "another object": faults.changed(),
    "another ETag": faults.wrong_etag(),
    "no ETag": faults.without_etag(),
    "all of it, whatever was asked for": faults.ignores_range(),
}
JUMPS: Mapping[str, timedelta] = {
    "the date jumps two hours ahead": timedelta(hours=2),
    "the date jumps two hours back": timedelta(hours=-2),
}
TARGETS = ("the target becomes a folder", "the target becomes another file")
DISK_STEPS = ("open", "write", "flush", "rename")
DISK_FAULTS = {
    "disk full": errno.ENOSPC,
    "permission": errno.EACCES,
    "broken disk": errno.EIO,
}
STORE_FAULTS = ("not stored", "stored, and not told")
MOST_STORE_STEPS = 40


@attrs.frozen
class Cell:
    """One fault in one step of one call: once, or for as long as the call lasts."""

    call: str
    step: str
    fault: str
    mode: Mode


def impossible(  # noqa: PLR0911 - a line for each reason
    call: str, step: str, fault: str, mode: Mode = "once"
) -> str | None:
    """Return why a fault cannot happen in a step; None if it can."""
    place = STEPS[call].get(step)

    if place is None:
        return None
    if fault in BODIES and not place.is_file:
        return "only the object store sends bodies that have a middle"
    if "sync" == call and fault == "another object":
        return "another object has other members, and a sync is for those"
    if fault in WIRE_FAULTS and place.connection is None:
        return "the connection of the first part of the file is still open, or was"
    if fault in JUMPS and (place.is_file or "always" == mode):
        return "the date is read when Amplitude answers, and jumps once"
    if fault in TARGETS and ("export" != call or place.is_file or "always" == mode):
        return "only an export has a target, and it is replaced once"

    return None


def network_cells() -> Iterator[Cell]:
    """Yield every fault that others may cause, in every step where it can happen."""
    for call, steps in STEPS.items():
        for step in steps:
            for fault in (*ANSWERS, *BODIES, *WIRE_FAULTS, *JUMPS, *TARGETS):
                for mode in MODES:
                    if impossible(call, step, fault, mode) is None:
                        yield Cell(call, step, fault, mode)


def disk_cells() -> Iterator[Cell]:
    """Yield every fault of the disk below the target."""
    for step in DISK_STEPS:
        for fault in DISK_FAULTS:
            for mode in MODES:
                yield Cell("export", step, fault, mode)


def store_cells(call: str, count: int) -> Iterator[Cell]:
    """Yield every fault of the job store, in each of its transactions."""
    for number in range(1, count + 1):
        for fault in STORE_FAULTS:
            for mode in MODES:
                yield Cell(call, f"transaction {number}", fault, mode)


# -- The job store that fails ------------------------------------------------


class ShakyStore(SqliteJobStore):
    """Fails at one transaction, or from there on, before or after it is stored."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.count = 0
        self.fault: str | None = None
        self.at = 0
        self.always = False

    async def transact(self, app: str, group: str, work: Callable[..., T]) -> T:
        """Run *work*, or fail."""
        self.count += 1
        is_hit = self.count == self.at or (self.always and self.count > self.at)

        if not (self.fault and is_hit):
            return await super().transact(app, group, work)
        if "not stored" != self.fault:
            await super().transact(app, group, work)
        raise JobStoreUnavailableError("the disk under the store is full")


# -- The calls ---------------------------------------------------------------


@attrs.define
class Scene:
    """Everything one cell has to itself."""

    emulator: NamedEmulator
    clock: FakeClock
    folder: Path
    base_url: str
    names: Names | None = None
    session: object = None

    @property
    def target(self) -> Path:
        """Where exports go."""
        return self.folder / "members.csv"

    async def make(self, call: str, client: CohortsClient, **options: object) -> None:
        """Make a call."""
        keywords: dict[str, object] = {"id_type": IdType.USER_ID}

        if "export" == call:
            await client.export(COHORT, self.target, timeout=30, **options)  # type: ignore[arg-type]
        elif "upload" == call:
            keywords |= {"app_id": 153957, "owner": "datamonster@amplitude.com"}
            journal = self.folder / "journal"
            await client.upload_cohort(NAME, WANTED, journal=journal, **keywords)  # type: ignore[arg-type]
        elif "update" == call:
            journal = self.folder / "journal"
            await client.update_membership(
                COHORT, add=WANTED, remove=BEFORE[:10], journal=journal
            )
        else:
            await client.sync_membership(COHORT, WANTED, max_removed=1.0, **options)  # type: ignore[arg-type]

    def check(self, call: str) -> None:
        """Fail unless what the call is for has happened, once."""
        if "export" == call:
            rows = self.target.read_text().splitlines()
            assert len(MEMBERS) + 1 == len(rows)
            assert ["members.csv"] == [
                path.name for path in Path(self.folder).iterdir()
            ]
            return

        if "upload" == call:
            ids = [each for each in self.emulator.cohort_ids if each != COHORT]
            (cohort,) = ids
        else:
            cohort = COHORT

        assert set(WANTED) == self.emulator.members_of(cohort)

    def check_target(self) -> None:
        """Fail if there is half a file at the target."""
        if self.target.is_file() and "other" != self.target.read_text():
            self.check("export")


@asynccontextmanager
async def scene(cell: Cell, folder: Path) -> AsyncIterator[Scene]:
    """Set up an emulator, with names and TLS where the fault needs them."""
    clock = FakeClock(grace=0.001)

    async with AsyncExitStack() as stack:
        emulator = NamedEmulator(
            api_key=API_KEY,
            secret_key=SECRET_KEY,
            clock=clock,
            quotas=Quotas.unlimited(),
            inline_below=0,
            job_seconds=10.0,
        )
        await stack.enter_async_context(emulator)
        members = MEMBERS if "export" == cell.call else BEFORE
        emulator.add_cohort(COHORT, members=members)
        made = Scene(emulator, clock, folder, emulator.base_url)
        stack.enter_context(mock.patch.object(batches_module, "MOST_IDS", 10))
        stack.enter_context(mock.patch.object(id_stream_module, "MOST_IDS", 10))
        if cell.fault in WIRE_FAULTS:
            made.names, made.session = await stack.enter_async_context(named(emulator))
            made.base_url = f"https://{API}:{made.names.ports[API]}"
        yield made


@asynccontextmanager
async def client_of(
    made: Scene, store: JobStore, *, is_patient: bool
) -> AsyncIterator[CohortsClient]:
    """Enter a client with one slot, so that a lost one would stop all."""
    patience = 30.0 if is_patient else 0.4

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=made.base_url,
        clock=made.clock,
        limits=Limits(
            in_flight=1, exports=(), polls=None, writes=None, release_delay=0.0
        ),
        jobs=store,
        session=made.session,  # type: ignore[arg-type]
        polling=Polling(initial_delay=8.0, interval=8.0, jitter=0.0),
        retrying=Retrying(attempts=3),
        timeout=patience if is_patient else 0.1,
        stall_timeout=patience,
    ) as client:
        yield client


# -- What happens in a cell --------------------------------------------------


@contextmanager
def trouble(  # noqa: C901 - a branch for each kind of fault
    cell: Cell, made: Scene, store: JobStore
) -> Iterator[None]:
    """Let the fault happen until the context is left."""
    step = STEPS[cell.call].get(cell.step)
    times = None if "always" == cell.mode else 1
    is_always = "always" == cell.mode

    with ExitStack() as stack:
        if isinstance(store, ShakyStore):
            store.fault, store.always = cell.fault, is_always
            store.at = int(cell.step.rpartition(" ")[2])
        elif cell.fault in DISK_FAULTS:
            stack.enter_context(_broken_disk(cell, is_always))
        elif cell.fault in WIRE_FAULTS:
            assert made.names is not None and step is not None
            names = made.names
            names.fault, names.always = cell.fault, is_always
            names.at = step.connection or 0
        elif step is not None and cell.fault in (*JUMPS, *TARGETS):
            stack.enter_context(_when_answered(made, step, cell.fault))
        elif step is not None:
            before = step.first or (faults.works(),) * (step.nth - 1)
            if before:
                made.emulator.fail_next(step.at, *before)
            fault = {**ANSWERS, **BODIES}[cell.fault]
            made.emulator.fail_next(step.at, fault, times=times)
            if cell.fault.startswith("reset"):
                stack.enter_context(mock.patch.object(Exchange, "hang_up", _reset))

        try:
            yield
        finally:
            if isinstance(store, ShakyStore):
                store.fault = None
            for job in made.emulator._service.jobs.values():
                # A torn object is mended; another object stays.
                job.stored_edits = ()
            if made.names is not None:
                made.names.fault = None
            for name in faults.STEPS:
                made.emulator._service.faults[name] = faults.FaultQueue()


@contextmanager
def _when_answered(made: Scene, step: Step, fault: str) -> Iterator[None]:
    """Let the date or the target change while Amplitude answers."""
    seen = 0

    def latency(record: RequestRecord) -> float:
        """Do it at the step, and take no time."""
        nonlocal seen
        seen += record.step == step.at
        if record.step == step.at and seen == step.nth:
            if fault in JUMPS:
                made.clock._zero += JUMPS[fault]
            elif "folder" in fault:
                made.target.mkdir()
            else:
                made.target.write_text("other")
        return 0.0

    # The options are frozen; both origins hold the same ones.
    options = made.emulator.options
    object.__setattr__(options, "latency", latency)
    try:
        yield
    finally:
        object.__setattr__(options, "latency", 0.0)
        if made.target.is_dir():
            made.target.rmdir()


@contextmanager
def _broken_disk(cell: Cell, is_always: bool) -> Iterator[None]:
    """Let a step of a part file fail."""
    owner, name = {
        "open": (part_file.PartFile, "open"),
        "write": (part_file, "_write"),
        "flush": (part_file.os, "fsync"),
        "rename": (Path, "replace"),
    }[cell.step]
    original = getattr(owner, name)
    code = DISK_FAULTS[cell.fault]
    count = 0

    def fail(*args: object, **keywords: object) -> object:
        """Fail once, or always."""
        nonlocal count
        count += 1
        if is_always or 1 == count:
            raise OSError(code, os.strerror(code))
        return original(*args, **keywords)

    with mock.patch.object(owner, name, fail):
        yield


def _reset(exchange: Exchange) -> None:
    """End a connection with RST instead of FIN."""
    transport = exchange.request.transport

    if transport is not None:
        held = transport.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


async def outcome_of(cell: Cell, folder: Path) -> str:
    """
    Let a fault happen in a call, then make the call again without it.

    Checks what is promised, and returns what happened in a few words.
    """
    before = asyncio.all_tasks(), len(set(sockets()))
    folder.mkdir()

    async with scene(cell, folder) as made:
        store = store_for(cell, folder)
        said = await _first(cell, made, store)
        spent = made.emulator.spent
        most = int(cell.call in {"export", "sync"})
        assert spent <= most, f"{spent} exports were spent by one call"
        made.check_target()

        words = ["done" if said is None else f"`{type(said).__name__}`"]
        if said is not None:
            words.append(await _again(cell, made, store))
        if made.emulator.spent > most:
            words.append(f"{made.emulator.spent} spent")
        made.check(cell.call)

    await _nothing_left(*before)

    return ", ".join(words)


def store_for(cell: Cell, folder: Path) -> JobStore:
    """Return a store in memory, but for faults of the store itself."""
    if cell.fault in STORE_FAULTS:
        return ShakyStore(folder.parent / f"{folder.name}.db")

    return MemoryJobStore()


async def _first(cell: Cell, made: Scene, store: JobStore) -> CohortsError | None:
    is_silent = cell.fault in {SILENT, "stalled"}

    with trouble(cell, made, store):
        async with client_of(made, store, is_patient=not is_silent) as client:
            try:
                async with asyncio.timeout(20):
                    await made.make(cell.call, client)
            except CohortsError as error:
                return error

    return None


async def _again(cell: Cell, made: Scene, store: JobStore) -> str:
    async with (
        asyncio.timeout(20),
        client_of(made, store, is_patient=True) as client,
    ):
        spent = made.emulator.spent
        try:
            await made.make(cell.call, client)
        except AmbiguousExportError:
            assert made.emulator.spent == spent <= 1
            await made.make(cell.call, client, on_unknown="spend")
            return "in doubt"
        except AmbiguousUploadError:
            made.clock.advance(1_000)
            await made.make(cell.call, client)
            return "in doubt"

    return "then done" if spent == made.emulator.spent else "anew"


async def _nothing_left(tasks: set[asyncio.Task[object]], open_sockets: int) -> None:
    turns = 0

    async with asyncio.timeout(10):
        while asyncio.all_tasks() - tasks or len(set(sockets())) > open_sockets:
            turns += 1
            await asyncio.sleep(0.001 if turns < 100 else 0.1)


# -- The document ------------------------------------------------------------


DISK, STORE = "the disk", "the job store"
HEAD = """\
# Fault matrix

Every step of a call crossed with everything that may go wrong in it: {total} cells, each of them
run over real sockets. A fault happens once, or for as long as the call lasts; then the same call is
made again without it. Written by `python tests/support/fault_matrix.py` from a run; the promises
below are asserted of each cell by `tests/reliability/test_fault_matrix.py`.

Each cell asserts that

- a file at its target is whole, and nothing else is left in its folder by the second call;
- the first call spends one export at most, and a second one is spent only where the table says so;
- the second call ends well, and what it writes to a cohort is what was wanted, once;
- the second call gets the one slot that there is, and no task or socket is left behind.

| Words | Cells | Meaning |
|---|--:|---|
| done | {done} | the call itself ends well |
| then done | {then} | it raises; the same call again goes on, and spends nothing more |
| anew | {anew} | it raises; the same call again requests an export, usually the first that is spent |
| in doubt | {doubt} | it raises; whether it was carried out cannot be known, and nothing is repeated \
unasked: `AmbiguousExportError` until `on_unknown="spend"`, `AmbiguousUploadError` for 15 minutes |

"2 spent" is the total where it is more than one: in doubt, the second was asked for; and after a
write a sync needs a fresh baseline.
"""


def sections() -> Iterator[tuple[str, str]]:
    """Yield the call and the step, or the part of this machine, of each table."""
    for call, steps in STEPS.items():
        for step in steps:
            yield call, step
    yield "export", DISK
    yield "export", STORE
    yield "update", STORE


async def cells_of(call: str, part: str, folder: Path) -> list[Cell]:
    """List the cells of a table."""
    if DISK == part:
        return list(disk_cells())
    if STORE == part:
        return list(store_cells(call, await transactions_of(call, folder / "count")))

    return [cell for cell in network_cells() if (cell.call, cell.step) == (call, part)]


async def transactions_of(call: str, folder: Path) -> int:
    """Count the transactions of an undisturbed call."""
    folder.mkdir()

    async with scene(Cell(call, "none", "none", "once"), folder) as made:
        store = ShakyStore(folder.parent / f"{folder.name}.db")
        async with client_of(made, store, is_patient=True) as client:
            await made.make(call, client)
            made.check(call)

        return store.count


async def run(
    cells: list[Cell], folder: Path
) -> tuple[dict[Cell, str], dict[Cell, BaseException]]:
    """Return what happened in each cell, and what was promised and not kept."""
    outcomes: dict[Cell, str] = {}
    broken: dict[Cell, BaseException] = {}

    for number, cell in enumerate(cells):
        try:
            outcomes[cell] = await outcome_of(cell, folder / f"{number}")
        except Exception as error:  # noqa: BLE001 - told with its cell
            broken[cell] = error

    return outcomes, broken


def table_of(call: str, part: str, outcomes: Mapping[Cell, str]) -> str:
    """Write the table of a section: faults that end alike share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    ends = {(each.step, each.fault, each.mode): text for each, text in outcomes.items()}

    for step, fault in dict.fromkeys((each.step, each.fault) for each in outcomes):
        once, always = (ends.get((step, fault, mode), "") for mode in MODES)
        name = fault if step == part else f"{step}: {fault}"
        rows.setdefault((once, always), []).append(name)

    lines = [
        f"| {'; '.join(names)} | {once} | {always} |"
        for (once, always), names in rows.items()
    ]

    return "\n".join(
        [
            f"## {call}: {part}",
            "",
            "| What goes wrong | Once | As long as the call lasts |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )


def ends_in(document: str) -> list[str]:
    """List what the tables of a document say of each cell."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in document.partition("\n## ")[2].splitlines()
        if line.startswith("| ") and not line.startswith("| What ")
    ]

    return [
        end
        for names, *ends in rows
        if len(ends) == len(MODES)
        for end in ends
        for _ in names.split("; ")
        if end
    ]


def head_of(tables: str) -> str:
    """Write what stands above the tables, with their counts."""
    ends = ends_in("\n" + tables)
    counted = {
        word: sum(text in end for end in ends)
        for word, text in {
            "then": "then done",
            "anew": "anew",
            "doubt": "in doubt",
        }.items()
    }

    return HEAD.format(total=len(ends), done=ends.count("done"), **counted)


def foot() -> str:
    """Write which combinations there are not, and why."""
    reasons: dict[str, int] = {}
    every = (*ANSWERS, *BODIES, *WIRE_FAULTS, *JUMPS, *TARGETS)

    for call, steps in STEPS.items():
        for step, fault, mode in itertools.product(steps, every, MODES):
            reason = impossible(call, step, fault, mode)
            if reason is not None:
                reasons[reason] = reasons.get(reason, 0) + 1

    lines = [f"| {reason} | {count} |" for reason, count in reasons.items()]

    return "\n".join(
        ["# What cannot happen", "", "| Why | Cells |", "|---|--:|", *lines, ""]
    )


async def document(folder: Path) -> str:
    """Run all cells, and write the document."""
    tables: list[str] = []

    for number, (call, part) in enumerate(sections()):
        place = folder / f"{number}"
        place.mkdir()
        outcomes, broken = await run(await cells_of(call, part, place), place)
        for cell, error in broken.items():
            sys.stderr.write(f"{cell} {repr(error)[:400]}\n")
        tables.append(table_of(call, part, outcomes))

    text = "\n".join(tables)

    return "\n".join([head_of(text), text, foot().replace("# What", "## What", 1)])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(asyncio.run(document(Path(place))))
