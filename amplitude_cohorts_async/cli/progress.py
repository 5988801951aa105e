"""Shows the progress of exports and writes on stderr, if it is a terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from ..events import (
    BatchWritten,
    BytesReceived,
    Event,
    ExportRequested,
    LinkRenewed,
    QuotaWait,
    RetryScheduled,
    StatusPolled,
)
from .render import printable

__all__ = ("ProgressDisplay", "bars", "watched_terminal")

_USUALLY = "requested, usually 30 to 60 s"
"""What others have seen of a job; the vendor does not say how long one takes."""

_NARROW = 60
"""Terminals with fewer columns show neither speed nor remaining time."""


class ProgressDisplay:
    """An event hook that draws a bar for each job; silent without a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        console = None if quiet else watched_terminal()
        self._bars = None if console is None else bars(console)
        self._tasks: dict[str, TaskID] = {}
        self._names: dict[str, str] = {}
        self._written: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event, /) -> None:
        """Show *event*."""
        if self._bars is None:
            return

        match event:
            case ExportRequested(cohort_id=cohort_id, request_id=request_id):
                self._names[request_id] = f"cohort {cohort_id}"
                self._show(self._bars, request_id, _USUALLY)
            case StatusPolled(request_id=request_id, word=status):
                self._show(self._bars, request_id, status)
            case BytesReceived(request_id=request_id, received=received, total=total):
                task = self._show(self._bars, request_id, "")
                self._bars.update(task, completed=received, total=total)
            case BatchWritten(cohort_id=cohort_id, operation=operation, ids=ids):
                self._written[cohort_id] = self._written.get(cohort_id, 0) + ids
                text = f"{operation}, {self._written[cohort_id]:,} ids written"
                self._names[cohort_id] = f"cohort {cohort_id}"
                self._show(self._bars, cohort_id, text)
            case LinkRenewed(reason=reason):
                self._note(self._bars, f"{reason}; continuing with a new link")
            case QuotaWait(cohort_id=cohort_id, seconds=seconds):
                self._note(
                    self._bars,
                    f"cohort {cohort_id} waits {seconds:.0f} s for the rate window",
                )
            case RetryScheduled(operation=operation, seconds=seconds, reason=reason):
                # A host that is away has the same reason, a long one, each time.
                is_told = self._reasons.get(operation) == reason
                why = "still failing" if is_told else reason
                self._reasons[operation] = reason
                self._note(
                    self._bars, f"{operation}: {why}; retrying in {seconds:.1f} s"
                )
            case _:
                pass

    def _show(self, shown: Progress, request_id: str, text: str) -> TaskID:
        # Started only now, because most commands have no job to show.
        shown.start()
        name = self._names.setdefault(request_id, f"export {request_id}")
        text = printable(f"{name} {text}".strip())

        if request_id not in self._tasks:
            self._tasks[request_id] = shown.add_task(text, total=None)

        shown.update(self._tasks[request_id], description=text)

        return self._tasks[request_id]

    def _note(self, shown: Progress, text: str) -> None:
        shown.console.print(Text(printable(text)))


def watched_terminal() -> Console | None:
    """Return stderr if it is a terminal that can move its cursor, else None."""
    # Checked here, because with FORCE_COLOR rich takes a file for a terminal.
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None

    return Console(stderr=True)


def bars(console: Console) -> Progress:
    """Return progress bars that fit the terminal, not started yet."""
    wide = [_Moving(TransferSpeedColumn()), _Moving(TimeRemainingColumn())]

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Waiting(),
        _Moving(DownloadColumn()),
        *(wide if console.width >= _NARROW else ()),
        console=console,
        transient=True,
        # Output to the terminal appears above the bars.
        redirect_stdout=sys.stdout.isatty(),
    )


class _Waiting(ProgressColumn):
    """How long a job is waited for, in seconds; empty once bytes arrive."""

    def render(self, task: Task) -> Text:
        """Return the time since the job was first shown."""
        if task.completed or task.elapsed is None:
            return Text()

        return Text(f"{task.elapsed:.0f} s", style="progress.elapsed")


class _Moving(ProgressColumn):
    """A column that is empty until bytes arrive."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> Text:
        """Return the column's text, or none yet."""
        shown = self._column.render(task) if task.completed else None
        return shown if isinstance(shown, Text) else Text()
