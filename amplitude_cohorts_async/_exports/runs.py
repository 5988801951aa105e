"""The runs of `export_many()` in the job store: open until their iterator ends."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from urllib.parse import quote

import attrs

from .._core.job_rows import Lease, Rows, RunRow, Wanted, read_runs, write_runs
from .._core.tokens import FILE_LIFE
from .._io.cancellation import finish_despite_cancel
from .._io.machine import has_ended, is_visible
from ..errors import InvalidInputError, JobStoreUnavailableError
from .app_rows import AppRows, T
from .claim import new_id

_GROUP = "runs"
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])", re.IGNORECASE)
_INTERVAL = 0.5
"""Seconds between looks at a lease that may be of a process that was killed."""


@attrs.frozen(kw_only=True)
class OpenRun:
    """
    A run, and the ended ones that it continues.

    Attributes:
        continued: By cohort, the runs that were left with it open.
    """

    row: RunRow
    continued: Mapping[str, frozenset[str]]


class Runs:
    """
    The runs of one app that export the same into one directory.

    Attributes:
        current: The run that was opened; None before.
    """

    def __init__(
        self,
        app: AppRows,
        *,
        directory: str,
        properties: Wanted,
        format: str,  # noqa: A002
    ) -> None:
        self._app = app
        self._same = (directory, properties, format)
        self.current: OpenRun | None = None

    async def open(self, cohort_ids: Sequence[str], *, is_fresh: bool) -> None:
        """
        Begin a run, and continue those that were left.

        A run that still runs is not continued. Whether one does that is not on this
        machine, its lease shows; that may take as long as the lease.

        Args:
            is_fresh: Whether to begin anew, and close what was left.

        Raises:
            JobStoreUnavailableError: Nothing was sent.
        """
        with self._app.waits.watch(
            f"an export_many() into {self._same[0]} that may still run elsewhere"
        ):
            await self._open(cohort_ids, is_fresh=is_fresh)

    async def _open(self, cohort_ids: Sequence[str], *, is_fresh: bool) -> None:
        seen: dict[str, float] = {}

        while True:
            run = await self._change(
                lambda runs, now: self._opened(runs, now, cohort_ids, is_fresh, seen)
            )
            if run is not None:
                self.current = run
                return

            await asyncio.sleep(_INTERVAL)

    async def restore(
        self,
        cohort_ids: Sequence[str],
        *,
        properties: Wanted,
        format: str,  # noqa: A002
    ) -> str:
        """Add a run that was left earlier, and return its id."""
        row = RunRow(
            id=new_id(),
            directory=self._same[0],
            properties=properties,
            format=format,
            begun_at=self._app.utcnow(),
            open=tuple(cohort_ids),
        )

        def work(runs: dict[str, RunRow], _now: float) -> None:
            """Add it, if anything is open in it."""
            if cohort_ids:
                runs[row.id] = row

        await self._change(work)
        return row.id

    async def hold(self) -> None:
        """
        Show that the run still runs, until this is cancelled.

        Then its lease is given up, and the next one continues it.
        """
        try:
            async with self._app.renewed(self._renew):
                await asyncio.get_running_loop().create_future()
        finally:
            await self._leave()

    async def _renew(self) -> None:
        await self._change(
            lambda runs, now: self._store_lease(runs, self._app.lease(1, now))
        )

    async def _leave(self) -> None:
        # If the store fails, the lease ends by itself.
        with suppress(JobStoreUnavailableError):
            await self._change(lambda runs, _now: self._store_lease(runs, None))

    def _store_lease(self, runs: dict[str, RunRow], lease: Lease | None) -> None:
        if self.current is not None and self.current.row.id in runs:
            row = runs[self.current.row.id]
            runs[row.id] = attrs.evolve(row, lease=lease)

    async def close(self) -> None:
        """
        Close the run, and in those that it continued its cohorts.

        Raises:
            JobStoreUnavailableError: The next run will continue this one.
        """
        run = self.current

        def work(runs: dict[str, RunRow], _now: float) -> None:
            """Close what this call has done of each."""
            if run is not None:
                for run_id in {run.row.id, *chain(*run.continued.values())}:
                    _close(runs, run_id, run.row.open)

        await self._change(work)

    async def _change(self, change: Callable[[dict[str, RunRow], float], T]) -> T:
        def work(rows: Rows, now: float) -> T:
            """Change the rows of the runs."""
            runs = read_runs(rows)
            result = change(runs, now)
            write_runs(rows, runs)
            return result

        return await finish_despite_cancel(
            self._app.store.transact(self._app.app, _GROUP, work)
        )

    def _opened(
        self,
        runs: dict[str, RunRow],
        now: float,
        cohort_ids: Sequence[str],
        is_fresh: bool,
        seen: dict[str, float],
    ) -> OpenRun | None:
        at = self._app.utcnow()

        for run in [run for run in runs.values() if at - run.begun_at >= FILE_LIFE]:
            del runs[run.id]

        same = [
            run
            for run in runs.values()
            if (run.directory, run.properties, run.format) == self._same
        ]
        states = {
            run.id: self._is_running(run.lease, now, run.id, seen) for run in same
        }
        if None in states.values():
            return None

        left = [run for run in same if not states[run.id]]
        if is_fresh:
            for run in left:
                _close(runs, run.id, cohort_ids)
            left = []

        directory, properties, format_ = self._same
        row = RunRow(
            id=new_id(),
            directory=directory,
            properties=properties,
            format=format_,
            begun_at=at,
            open=tuple(cohort_ids),
            lease=self._app.lease(1, now),
        )
        runs[row.id] = row

        return OpenRun(
            row=row,
            continued={
                cohort_id: frozenset(run.id for run in left if cohort_id in run.open)
                for cohort_id in cohort_ids
            },
        )

    def _is_running(
        self, lease: Lease | None, now: float, run_id: str, seen: dict[str, float]
    ) -> bool | None:
        """Return whether a run still runs; None if only time will tell."""
        if lease is None or lease.until <= now or has_ended(lease.owner):
            return False
        if (
            is_visible(lease.owner)
            or seen.setdefault(run_id, lease.until) < lease.until
        ):
            return True

        return None


def file_name(cohort_id: str, format: str) -> str:  # noqa: A002
    """
    Return the name of a cohort's file; it cannot lead out of its directory.

    It is the same on every system, and on Windows names no device.
    """
    stem = quote(cohort_id, safe="")

    if _DEVICE.fullmatch(stem.partition(".")[0]):
        stem = f"%{ord(stem[0]):X}{stem[1:]}"

    return f"{stem}.{format}"


def check_file_names(cohort_ids: Sequence[str]) -> None:
    """
    Raise `InvalidInputError` if two files have one name, where case does not count.

    The file systems of Windows and macOS ignore it, unless they are set up otherwise.
    """
    if sys.platform not in {"darwin", "win32"}:
        return

    seen: dict[str, str] = {}

    for cohort_id in cohort_ids:
        other = seen.setdefault(cohort_id.casefold(), cohort_id)
        if other != cohort_id:
            raise InvalidInputError(
                f"the cohorts {other} and {cohort_id} would have one file on this "
                f"system, where names ignore case; export them to different folders"
            )


def _close(runs: dict[str, RunRow], run_id: str, cohort_ids: Sequence[str]) -> None:
    done = set(cohort_ids)

    row = runs.get(run_id)

    if row is None:
        return

    left = tuple(cohort_id for cohort_id in row.open if cohort_id not in done)
    if left:
        runs[run_id] = attrs.evolve(row, open=left)
    else:
        del runs[run_id]
