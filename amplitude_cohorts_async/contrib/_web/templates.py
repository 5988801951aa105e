"""The templates of the page, and how it writes numbers, sizes and times."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

__all__ = ("Templates",)

_USUAL_JOB = 45.0
"""Seconds that a job takes: others have seen 30 to 60, the vendor does not say."""

_MINUTE = 90
_NOTHING = "\N{EN DASH}"
_SIZES = ("kB", "MB", "GB")


class Templates:
    """The templates of a folder, all read at once: a request waits for no disk."""

    def __init__(self, folder: Path, **values: object) -> None:
        texts = {each.name: each.read_text("utf-8") for each in folder.glob("*.html")}
        self._environment = Environment(
            loader=DictLoader(texts),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        names: dict[str, Any] = self._environment.globals
        names.update(values)
        filters: dict[str, Any] = self._environment.filters
        filters.update(
            number=_number, size=_size, duration=_duration, moment=_moment, left=_left
        )
        for name in texts:
            self._environment.get_template(name)

    def render(self, name: str, **values: object) -> str:
        """Return a page, or a part of one."""
        return self._environment.get_template(name).render(values)


def _number(value: int | None) -> str:
    return _NOTHING if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    """Return a number of bytes in the unit that keeps it short."""
    if value is None:
        return _NOTHING

    size, unit = float(value), "bytes"
    for larger in _SIZES:
        if size < 1000:  # noqa: PLR2004 - of a unit
            break
        size, unit = size / 1000, larger

    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def _duration(seconds: float) -> str:
    """Return some seconds, as exactly as anybody knows them."""
    if seconds < _MINUTE:
        return f"{max(1, round(seconds))} s"

    return f"{round(seconds / 60):,} min"


def _moment(value: datetime | None) -> str:
    if value is None:
        return _NOTHING

    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _left(requested_at: datetime | None, now: datetime) -> str:
    """Return how long a job usually takes from now on."""
    if requested_at is None:
        return "usually under a minute"

    left = _USUAL_JOB - (now - requested_at).total_seconds()
    return f"about {_duration(left)} left" if left > 0 else "any moment now"
