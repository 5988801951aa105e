"""
Imports what earlier releases recorded of an `export_many()`: lines of JSON in a file.

Each line has a key, a hash of cohort and properties with the format behind it, and
what happened: an attempt, a refusal, a token, a saved file, or an end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs

from .._core.job_rows import CohortRows, DeliveryRow, ExportRow, ExportState, Wanted
from .._core.json_stream import mapping_of
from .._core.tokens import ExportRef, export_key, from_token
from .._io.cancellation import in_thread
from .._io.sinks.part_file import write_small
from ..errors import CohortsError, StorageError
from .app_jobs import path_name
from .app_rows import AppRows
from .claim import facts_of
from .runs import Runs, file_name

NAME = ".amplitude-exports.jsonl"


@attrs.define
class _History:
    """What the lines add up to, by key."""

    attempted: set[str] = attrs.field(factory=set[str])
    tokens: dict[str, str] = attrs.field(factory=dict[str, str])
    saved: dict[str, Mapping[str, object]] = attrs.field(
        factory=dict[str, Mapping[str, object]]
    )
    in_run: set[str] = attrs.field(factory=set[str])

    def read(self, line: Mapping[str, object]) -> None:
        """Apply one line."""
        key, token = line.get("key"), line.get("token")

        if "finished" in line:
            self.in_run.clear()
        elif not isinstance(key, str):
            return
        elif "attempt" in line:
            self.attempted.add(key)
        elif "refused" in line:
            self.attempted.discard(key)
        elif "over" in line:
            self._end(key)
        elif isinstance(token, str):
            self._end(key)
            self.tokens[key] = token
        elif saved := mapping_of(line.get("saved")):
            self._end(key)
            self.saved[key] = saved
            self.in_run.add(key)

    def _end(self, key: str) -> None:
        self.attempted.discard(key)
        self.tokens.pop(key, None)


@attrs.frozen(kw_only=True)
class _Old:
    """One export of the record."""

    ref: ExportRef
    format: str
    state: ExportState = ExportState.REQUESTED
    saved: Mapping[str, object] | None = None
    is_open: bool = True


async def import_old_record(
    app: AppRows,
    runs: Runs,
    directory: Path,
    *,
    cohort_ids: Iterable[str],
    wanted: Wanted,
    format: str,  # noqa: A002
) -> None:
    """
    Move the record of a directory into the job store, if there is one.

    An attempt names no cohort: those of other cohorts than *cohort_ids* stay in it.

    Raises:
        JobStoreUnavailableError: The record is as it was.
        StorageError: The record cannot be read or replaced; it is as it was.
    """
    path = directory / NAME
    history = await in_thread(partial(_load, path))

    if history is None:
        return

    keys = {f"{export_key(each, wanted)}.{format}": each for each in cohort_ids}
    attempts = [
        _Old(
            ref=ExportRef(request_id="", cohort_id=keys[key], properties=wanted),
            format=format,
            state=ExportState.ATTEMPTED,
        )
        for key in history.attempted & keys.keys()
    ]
    olds = [*_spent(history), *attempts]
    groups: dict[tuple[Wanted, str], list[_Old]] = {}

    for old in olds:
        groups.setdefault((old.ref.properties, old.format), []).append(old)

    for (properties, suffix), members in groups.items():
        ids = [str(old.ref.cohort_id) for old in members if old.is_open]
        run = await runs.restore(ids, properties=properties, format=suffix)
        for old in members:
            name = file_name(str(old.ref.cohort_id), suffix)
            target = await in_thread(partial(_target, directory / name))
            change = partial(_insert, old, run if old.is_open else None, target)
            await app.transact(str(old.ref.cohort_id), change)

    await in_thread(partial(_leave, path, history.attempted - keys.keys()))


def _spent(history: _History) -> Iterable[_Old]:
    for key, token in history.tokens.items():
        with suppress(CohortsError):
            yield _Old(ref=from_token(token), format=key.partition(".")[2])

    for key, saved in history.saved.items():
        with suppress(CohortsError):
            yield _Old(
                ref=from_token(str(saved.get("token"))),
                format=key.partition(".")[2],
                state=ExportState.READY,
                saved=saved,
                is_open=key in history.in_run and key not in history.tokens,
            )


def _target(path: Path) -> str:
    return path_name(Path(os.path.realpath(path)))


def _insert(old: _Old, run: str | None, target: str, rows: CohortRows) -> None:
    # The same for each process that reads the record, and after a kill: what was
    # imported before adds nothing.
    row_id = _row_id(old, target)

    if row_id in rows.deliveries:
        return

    request_id = old.ref.request_id
    export = rows.of_request(request_id) if request_id else rows.exports.get(row_id)

    if export is None:
        began_at = old.ref.requested_at or rows.at
        export = rows.update_export(
            ExportRow(id=row_id, cohort_id=str(old.ref.cohort_id), created_at=began_at),
            **{
                **facts_of(old.ref),
                "request_id": request_id or None,
                "state": old.state,
                "attempted_at": began_at,
                "sequence": rows.next_sequence(),
            },
        )

    done_at = None if old.saved is None else rows.at
    rows.update_delivery(
        DeliveryRow(
            id=row_id,
            export_id=export.id,
            sequence=export.sequence,
            target=target,
            format=old.format,
            run=run,
            begun_at=export.began_at,
            finished_at=done_at,
            answered_at=done_at,
            saved=old.saved,
        )
    )


def _row_id(old: _Old, target: str) -> str:
    key = export_key(str(old.ref.cohort_id), old.ref.properties)
    text = json.dumps([old.state.value, old.ref.request_id, key, target])

    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _load(path: Path) -> _History | None:
    history = _History()

    with _unusable(path):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return None

    for text in lines:
        # A line that a crash cut short is not JSON, and is skipped.
        with suppress(ValueError, TypeError, RecursionError):
            history.read(mapping_of(json.loads(text)))

    return history


def _leave(path: Path, attempted: set[str]) -> None:
    """Leave the attempts in the record that name nothing we know."""
    with _unusable(path):
        if not attempted:
            path.unlink(missing_ok=True)
            return

        lines = (json.dumps({"key": key, "attempt": 1}) for key in attempted)
        data = "".join(f"{line}\n" for line in lines).encode()
        place = Path(os.path.realpath(path))
        write_small(place, data, mode=0o600, like=place)


@contextmanager
def _unusable(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        # The error is also that of an export's file; a record has none.
        raise StorageError(
            f"{path}, the record of an earlier release, cannot be read or replaced: "
            f"{error.strerror or error}; let this user do that, or move it away if no "
            f"export in it is of use",
            request_id="",
        ) from error
