"""
Progress bars of long calls, for ``progress=True``: drawn by tqdm, or else by rich.

A bar hears the events of its call: of the tasks that the call has begun.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

import anyio.to_thread

from ..errors import InvalidInputError, MissingExtraError
from ..events import (
    BatchWritten,
    BytesReceived,
    Event,
    ExportAdopted,
    ExportRequested,
    LinkRenewed,
    QuotaWait,
    RetryScheduled,
    StatusPolled,
)
from ..models import ExportOutcome
from .context import listening

_logger = logging.getLogger(__name__)

Progress = Callable[[BytesReceived], None]
"""Called with the bytes of a file that were received."""

_EXPORTS = " exports"

_lock = threading.RLock()
"""Held while tqdm draws, unless the program has given tqdm a lock."""

_REFRESH_SECONDS = 0.5
"""How often a bar is drawn that hears nothing, for the time that it shows."""


class Drawing(Protocol):
    """A line with a text and a count, as tqdm or rich draws it."""

    def show(self, text: str, done: int, total: int | None) -> None:
        """Show a text, and how much is done."""

    def refresh(self) -> None:
        """Draw it again: time has passed."""

    def close(self) -> None:
        """Leave it as it is, and go to the next line."""


def _here(draw: Callable[[], object]) -> None:
    draw()


drawn_by: ContextVar[Callable[[Callable[[], object]], None]] = ContextVar(
    "drawn_by", default=_here
)
"""Draws: at once, or in the thread of a blocking call."""


class Bar:
    """
    The bar of one call.

    It never fails its call: an error of what draws it is logged, and ends the drawing.
    """

    def __init__(self, name: str, *, exports: int | None = None) -> None:
        """
        Choose what draws the bar; nothing is drawn before the first event.

        Args:
            name: What the call is about, as in "cohort 26umsb5".
            exports: How many exports are counted; None counts bytes, or ids.

        Raises:
            MissingExtraError: Neither tqdm nor rich is installed.
        """
        self._name = name
        self._exports = exports
        self._done = 0
        self._cohorts: dict[str, str] = {}
        self._library = _library()
        self._make: Callable[[str, str, int | None], Drawing] | None = None
        self._drawing: Drawing | None = None
        self._is_over = False

    async def prepare(self) -> None:
        """Import what draws, in a thread: it reads files."""
        if self._make is None:
            self._make = await anyio.to_thread.run_sync(_drawing, self._library)

    def __call__(self, event: Event, /) -> None:
        """Show an event."""
        drawn_by.get()(partial(self._hear, event))

    def finished(self, outcome: ExportOutcome) -> None:
        """Count an export that has ended."""
        drawn_by.get()(partial(self._count, outcome))

    def refresh(self) -> None:
        """Show the time."""
        drawn_by.get()(self._refresh)

    def close(self) -> None:
        """Leave the bar as it is."""
        drawn_by.get()(self._close)

    def _hear(self, event: Event) -> None:
        match event:
            case BytesReceived(received=received, total=total):
                if self._exports is None:
                    self._show("", received, total, unit="B")
            case BatchWritten(operation=operation, ids=ids):
                self._done += ids
                self._show(f"{operation}, ids written", self._done, None, unit="")
            case RetryScheduled(operation=operation, seconds=seconds):
                self._say("", f"{operation} failed, tried again in {seconds:.0f} s")
            case QuotaWait(cohort_id=cohort_id, seconds=seconds):
                self._say(cohort_id, f"waits {seconds:.0f} s for the limits")
            case ExportRequested(cohort_id=cohort_id, request_id=request_id):
                self._cohorts[request_id] = cohort_id
                self._say(cohort_id, "requested, usually 30 to 60 s")
            case ExportAdopted(cohort_id=cohort_id, request_id=request_id):
                self._cohorts[request_id] = cohort_id
                self._say(cohort_id, "goes on with an earlier export")
            case StatusPolled(request_id=request_id, word=word):
                self._say(self._cohorts.get(request_id, ""), word.lower())
            case LinkRenewed(request_id=request_id, reason=reason):
                text = f"{reason}; goes on with a new link"
                self._say(self._cohorts.get(request_id, ""), text)
            case _:
                pass

    def _say(self, cohort_id: str, text: str) -> None:
        if self._exports is None:
            self._show(text, 0, None, unit="B")
            return

        text = f"cohort {cohort_id}: {text}" if cohort_id else text
        self._show(text, self._done, self._exports, unit=_EXPORTS)

    def _count(self, outcome: ExportOutcome) -> None:
        self._done += 1
        how = "saved" if outcome.error is None else "failed"
        self._say(outcome.cohort_id, how)

    def _refresh(self) -> None:
        with self._kept_from_call():
            if self._drawing is not None:
                self._drawing.refresh()

    def _close(self) -> None:
        with self._kept_from_call():
            if self._drawing is not None:
                self._drawing.close()
        self._is_over, self._drawing = True, None

    def _show(self, text: str, done: int, total: int | None, *, unit: str) -> None:
        with self._kept_from_call():
            if self._is_over or self._make is None:
                return
            text = ": ".join(filter(None, [self._name, _printable(text)]))
            if self._drawing is None:
                self._drawing = self._make(unit, text, total)
            self._drawing.show(text, done, total)

    @contextmanager
    def _kept_from_call(self) -> Generator[None]:
        try:
            yield
        except Exception:
            _logger.warning("a progress bar could not be drawn", exc_info=True)
            self._is_over, self._drawing = True, None


def bar_of(progress: object, name: str, *, exports: int | None = None) -> Bar | None:
    """Return the bar that ``progress=True`` asks for; None if it is False."""
    if not isinstance(progress, bool):
        raise InvalidInputError(
            f"progress= was given as {type(progress).__name__}; pass True for a bar, "
            f"or, where a file is downloaded, a function"
        )

    return Bar(name, exports=exports) if progress else None


@asynccontextmanager
async def shown(
    progress: Progress | bool | None,
    name: str,
) -> AsyncGenerator[Progress | None]:
    """Draw the bar that *progress* asks for, and yield the callback that it is."""
    if progress is None or callable(progress):
        yield progress
        return

    async with drawn(bar_of(progress, name)):
        yield None


@asynccontextmanager
async def drawn(bar: Bar | None) -> AsyncGenerator[None]:
    """Let a bar hear what is done inside, and show the time; close it then."""
    if bar is None:
        yield
        return

    await bar.prepare()

    try:
        async with heard(bar):
            yield
    finally:
        bar.close()


@asynccontextmanager
async def heard(bar: Bar) -> AsyncGenerator[None]:
    """Let a prepared bar hear what is begun inside, and show the time."""
    refreshing = asyncio.create_task(_refresh(bar))
    token = listening.set(bar)

    try:
        yield
    finally:
        listening.reset(token)
        refreshing.cancel()


async def _refresh(bar: Bar) -> None:
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        bar.refresh()


def _printable(text: str) -> str:
    # Words of a service may hold what moves a terminal's cursor.
    return "".join(char if char.isprintable() else " " for char in text)


def _library() -> str:
    """Return what draws; nothing is imported yet."""
    for name in ("tqdm", "rich"):
        if find_spec(name) is not None:
            return name

    raise MissingExtraError("progress=True", extra="progress")


def _drawing(library: str) -> Callable[[str, str, int | None], Drawing]:
    if library == "rich":
        import_module("rich.progress")
        return _RichBar

    kind = cast("_Tqdm", import_module("tqdm.auto")).tqdm
    # Without the thread that looks after bars which nobody updates, and without the
    # lock that processes share.
    own = {"monitor_interval": 0, "_lock": getattr(kind, "_lock", _lock)}

    return partial(_TqdmBar, cast("_MakesLine", type("tqdm", (kind,), own)))


class _TqdmBar:
    """A bar of tqdm: of a terminal, or of a notebook."""

    def __init__(
        self, kind: _MakesLine, unit: str, text: str, total: int | None
    ) -> None:
        self._bar = kind(unit=unit, desc=text, total=total, unit_scale=unit != _EXPORTS)

    def show(self, text: str, done: int, total: int | None) -> None:
        """Show a text, and how much is done."""
        if total != self._bar.total:
            # In a notebook this sets the width of the bar, too.
            self._bar.reset(total)
            self._bar.set_description_str(text)
        elif text != self._bar.desc:
            self._bar.set_description_str(text)

        self._bar.update(done - self._bar.n)

    def refresh(self) -> None:
        """Draw it again: time has passed."""
        self._bar.refresh()

    def close(self) -> None:
        """Leave it as it is."""
        self._bar.refresh()
        self._bar.close()


class _TqdmLine(Protocol):
    """What is used of a bar of tqdm."""

    n: int
    total: int | None
    desc: str

    def reset(self, total: int | None) -> None: ...
    def set_description_str(self, desc: str) -> None: ...
    def update(self, n: int) -> bool | None: ...
    def refresh(self) -> None: ...
    def close(self) -> None: ...


class _MakesLine(Protocol):
    """The class of tqdm's bars."""

    def __call__(
        self, *, unit: str, desc: str, total: int | None, unit_scale: bool
    ) -> _TqdmLine: ...


class _Tqdm(Protocol):
    """What is used of tqdm, which has no types."""

    tqdm: type


class _RichBar:
    """A bar of rich."""

    def __init__(self, unit: str, text: str, total: int | None) -> None:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import (  # noqa: PLC0415 - an extra
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn() if unit == "B" else MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bars.add_task(text, total=total)
        self._bars.start()

    def show(self, text: str, done: int, total: int | None) -> None:
        """Show a text, and how much is done."""
        self._bars.update(
            self._task, description=text, completed=done, total=total, refresh=True
        )

    def refresh(self) -> None:
        """Draw it again: time has passed."""
        self._bars.refresh()

    def close(self) -> None:
        """Leave it as it is."""
        self._bars.stop()
