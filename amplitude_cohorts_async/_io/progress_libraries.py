"""Renders a progress bar by tqdm, or else by rich: the extra ``progress``, or ``cli``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, TypeAlias, cast

import attrs

from ..errors import MissingExtraError

BYTES = "B"
"""The unit of a bar that counts bytes."""

_tqdm_lock = threading.RLock()
"""Held while tqdm renders, unless the program has given tqdm a lock."""


@attrs.frozen
class BarState:
    """
    What a bar shows.

    Attributes:
        total: None if it is not known.
        unit: What is counted, as in " exports"; `BYTES` has prefixes.
    """

    description: str
    completed: int = 0
    total: int | None = None
    unit: str = BYTES

    @property
    def is_counting(self) -> bool:
        """Whether there is more to show than a text and the time."""
        return self.completed > 0 or self.total is not None


class Renderer(Protocol):
    """A bar of a library, on stderr or below a notebook's cell."""

    def update(self, state: BarState) -> None:
        """Show another state."""

    def refresh(self) -> None:
        """Show the time that has passed."""

    def close(self) -> None:
        """Leave the bar as it is, and go to the next line."""


MakeRenderer: TypeAlias = Callable[[BarState], Renderer]
"""Shows the first state, and returns what shows the next ones."""


def installed_library() -> str:
    """
    Return the library that renders; nothing is imported yet.

    Raises:
        MissingExtraError: Neither tqdm nor rich is installed.
    """
    for name in ("tqdm", "rich"):
        if find_spec(name) is not None:
            return name

    raise MissingExtraError("progress=True", extra="progress")


def load_renderer(library: str) -> MakeRenderer:
    """Import a library, and return what makes its bars."""
    if library == "rich":
        import_module("rich.progress")
        return _RichBar

    kind = cast("_TqdmModule", import_module("tqdm.auto")).tqdm
    # Without the thread that looks after bars which nobody updates, and without the
    # lock that processes share.
    own = {"monitor_interval": 0, "_lock": getattr(kind, "_lock", _tqdm_lock)}

    return partial(_TqdmBar, cast("_MakeTqdm", type("tqdm", (kind,), own)))


class _Tqdm(Protocol):
    """What is used of a bar of tqdm, which has no types."""

    n: int
    total: int | None
    desc: str
    unit: str
    unit_scale: bool
    bar_format: str | None

    def reset(self, total: int | None) -> None: ...
    def set_description_str(self, desc: str, refresh: bool) -> None: ...
    def update(self, n: int) -> bool | None: ...
    def refresh(self) -> None: ...
    def close(self) -> None: ...


class _MakeTqdm(Protocol):
    """The class of tqdm's bars."""

    def __call__(
        self,
        *,
        desc: str,
        total: int | None,
        unit: str,
        unit_scale: bool,
        bar_format: str | None,
    ) -> _Tqdm: ...


class _TqdmModule(Protocol):
    """What is used of the module."""

    tqdm: type


class _TqdmBar:
    """A bar of tqdm: of a terminal, or of a notebook."""

    def __init__(self, make: _MakeTqdm, state: BarState) -> None:
        self._bar = make(
            desc=state.description,
            total=state.total,
            unit=state.unit,
            unit_scale=state.unit == BYTES,
            bar_format=_tqdm_format(state),
        )

    def update(self, state: BarState) -> None:
        """Show another state."""
        bar = self._bar
        is_new_count = (state.total, state.unit) != (bar.total, bar.unit)
        is_new = is_new_count or state.description != bar.desc

        if is_new_count:
            bar.unit, bar.unit_scale = state.unit, state.unit == BYTES
            # In a notebook this sets the width of the bar, too. It keeps a total that
            # is not replaced.
            bar.reset(state.total)
            bar.total = state.total

        bar.bar_format = _tqdm_format(state)
        bar.set_description_str(state.description, refresh=False)
        bar.update(state.completed - bar.n)
        if is_new:
            bar.refresh()

    def refresh(self) -> None:
        """Show the time that has passed."""
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is, and go to the next line."""
        self._bar.refresh()
        self._bar.close()


def _tqdm_format(state: BarState) -> str | None:
    return None if state.is_counting else "{desc} [{elapsed}]"


class _RichBar:
    """A bar of rich."""

    def __init__(self, state: BarState) -> None:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import (  # noqa: PLC0415 - an extra
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bars.add_task(
            state.description, total=state.total, count=_rich_count(state)
        )
        self._bars.start()

    def update(self, state: BarState) -> None:
        """Show another state."""
        self._bars.update(
            self._task,
            description=state.description,
            completed=state.completed,
            total=state.total,
            count=_rich_count(state),
            refresh=True,
        )

    def refresh(self) -> None:
        """Show the time that has passed."""
        self._bars.refresh()

    def close(self) -> None:
        """Leave the bar as it is, and go to the next line."""
        self._bars.stop()


def _rich_count(state: BarState) -> str:
    from rich.filesize import decimal  # noqa: PLC0415 - an extra

    if not state.is_counting:
        return ""

    counts = [state.completed] + ([] if state.total is None else [state.total])

    if state.unit == BYTES:
        return "/".join(map(decimal, counts))

    return "/".join(f"{each:,}" for each in counts) + state.unit
