"""
Makes the steps of exports: those that are due, and those that somebody waits for.

Any number of workers share one store. A step takes a lease there, so that nothing is
sent twice, and what one worker leaves another one takes up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Never, TypeAlias

from ... import CohortsClient
from ...errors import (
    AmbiguousExportError,
    CohortsError,
    ConfigurationError,
    DownloadError,
    ExportError,
    InvalidInputError,
    JobStoreUnavailableError,
    MonthlyQuotaError,
    StorageError,
)
from ...jobs import JobRecord, Tick
from ...types import Clock
from .files import Files
from .records import SPENT, ExportRoot, name_of
from .store_view import StoreView

__all__ = ("Step", "Steps", "end_tasks")

_LOOK = 5.0
"""Seconds between two looks into the store, while nobody watches."""

_WATCHED_LOOK = 1.0
"""And while somebody does."""

_REST = 5.0
"""How many times as long as a look took nobody looks again, whatever has changed."""

_AGAIN = 60.0
"""Seconds until a step is made again whose failure somebody may have mended."""

_SWEEP = 3600.0
"""Seconds between two looks for old files."""

_FINAL = (
    AmbiguousExportError,
    DownloadError,
    ExportError,
    MonthlyQuotaError,
)
"""No later step of this process mends them."""

Step: TypeAlias = "asyncio.Task[Tick | CohortsError]"

_logger = logging.getLogger(__name__)


class Steps:
    """The steps that one process makes of the exports below one root."""

    def __init__(
        self,
        client: CohortsClient,
        root: ExportRoot,
        files: Files,
        view: StoreView,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._root = root
        self._files = files
        self._view = view
        self._now = clock.now if clock else time.monotonic
        self._sleep = clock.sleep if clock else asyncio.sleep
        self._awake = asyncio.Event()
        self._steps: dict[str, Step] = {}
        self._due_at: dict[str, float] = {}
        self._held_back: set[str] = set()
        self._swept_at = -math.inf
        self._rest = 0.0
        self._is_store_away = False
        view.on_watcher(self._awake.set)

    @property
    def under_way(self) -> Mapping[str, Step]:
        """The steps that are being made, by the names of their exports."""
        return self._steps

    async def run(self) -> Never:
        """Begin what is due, until cancelled; what is under way then goes on."""
        while True:
            due_in = await self._turn_or_wait()
            await self._sleep(self._rest)
            await self._pause(max(0.0, due_in - self._rest))

    def begin(self, record: JobRecord) -> Step:
        """Return the running step of an export, or begin it."""
        name = name_of(record)

        if name not in self._steps:
            self._steps[name] = asyncio.create_task(self._step(name, record))
            self._steps[name].add_done_callback(lambda _: self._step_ended(name))
            self._view.running.add(name)

        return self._steps[name]

    @contextmanager
    def held_back(self, name: str) -> Generator[None]:
        """Begin no step of an export meanwhile because it is due."""
        self._held_back.add(name)

        try:
            yield
        finally:
            self._held_back.discard(name)

    async def _turn_or_wait(self) -> float:
        try:
            return await self._turn()
        except Exception:  # or no export would go on any more
            _logger.exception("a look for the steps that are due failed")
            return _LOOK

    async def _turn(self) -> float:
        """Begin the steps that are due; return the seconds until the next turn."""
        began = self._now()

        try:
            await self._view.look()
        except JobStoreUnavailableError as error:
            if not self._is_store_away:
                _logger.warning("the job store cannot be read: %s", error)
            self._is_store_away = True
            return _LOOK

        self._is_store_away = False
        self._rest = _REST * (self._now() - began)
        if self._view.stopping.is_set():
            return _LOOK

        self._forget_old()
        if self._now() - self._swept_at >= _SWEEP:
            self._swept_at = self._now()
            await self._files.sweep()

        waits = [self._begin_if_due(record) for record in self._view.records]
        return min([_WATCHED_LOOK if self._view.is_watched else _LOOK, *waits])

    def _begin_if_due(self, record: JobRecord) -> float:
        """Begin the next step if it is due; return how long to wait for one."""
        step = self._root.step(record)
        name = "" if step is None else name_of(step)

        if step is None or name in self._steps or name in self._held_back:
            return math.inf

        due_in = self._due_at.get(name, -math.inf) - self._now()
        if due_in > 0:
            return due_in

        self.begin(step)
        return math.inf

    def _step_ended(self, name: str) -> None:
        del self._steps[name]
        self._view.running.discard(name)
        self._awake.set()

    async def _step(self, name: str, record: JobRecord) -> Tick | CohortsError:
        """Make a step, and note when the next one is due."""
        try:
            tick = await self._client.tick(record)
        except CohortsError as error:
            is_final = self._is_final(name, error)
            self._due_at[name] = math.inf if is_final else self._now() + _AGAIN
            self._view.note_failure(name, error, is_final=is_final)
            return error
        except Exception as error:  # it must not end the others
            _logger.exception("the step of %s failed", record.key)
            self._due_at[name] = self._now() + _AGAIN
            return ConfigurationError(
                f"a step of the export failed unexpectedly ({type(error).__name__}); "
                f"the server's log says more"
            )

        # Of one that is done the store tells so by then.
        due_in = _LOOK if tick.due_in is None else tick.due_in
        self._due_at[name] = self._now() + due_in
        self._view.note_step(name, tick.last_error)

        return tick

    def _is_final(self, name: str, error: CohortsError) -> bool:
        if isinstance(error, InvalidInputError):
            # Its folder may be away for a moment, and an export is spent.
            record = self._view.record(name)
            return record is None or record.state not in SPENT

        return isinstance(error, _FINAL) and not isinstance(error, StorageError)

    def _forget_old(self) -> None:
        """Forget what was noted of exports that are not in the store any more."""
        self._view.forget_old()
        for name in (
            self._due_at.keys() - self._view.by_name.keys() - self._steps.keys()
        ):
            del self._due_at[name]

    async def _pause(self, seconds: float) -> None:
        awake = asyncio.create_task(self._awake.wait())
        due = asyncio.ensure_future(self._sleep(seconds))

        try:
            await asyncio.wait([awake, due], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(awake, due)
        self._awake.clear()


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
