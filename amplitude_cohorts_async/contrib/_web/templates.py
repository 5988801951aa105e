"""The templates of the page, and how it writes numbers, sizes and times."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from .downloads import Download

__all__ = ("Templates",)

_USUAL_JOB = 45.0
"""Seconds that a job takes: others have seen 30 to 60, the vendor does not say."""

_MINUTE = 90
_NOTHING = "\N{EN DASH}"
_SIZES = ("kB", "MB", "GB")
_FORMATS = {"csv": "CSV", "csv.gz": "CSV, compressed", "parquet": "Parquet"}
_MOST_NAMED = 3
_LONGEST_ID = 10


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
            number=_number,
            size=_size,
            duration=_duration,
            moment=_moment,
            instant=_instant,
            left=_left,
            progress=_progress,
            file_format=_file_format,
            columns=_columns,
            short=_short,
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


def _instant(value: datetime) -> str:
    """Return a time that tells apart what was begun one after the other."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _left(requested_at: datetime | None, now: datetime) -> str:
    """Return how long a job usually takes from now on."""
    if requested_at is None:
        return "usually under a minute"

    left = _USUAL_JOB - (now - requested_at).total_seconds()
    return f"about {_duration(left)} left" if left > 0 else "any moment now"


def _progress(download: Download) -> str:
    """Return how much of a file has come, how fast, and how long the rest takes."""
    of = "" if download.total is None else f" of {_size(download.total)}"
    parts = [f"{_size(download.received)}{of} received"]

    if download.pace is not None:
        parts.append(f"{_size(round(download.pace))} a second")
    if download.seconds_left:
        parts.append(f"about {_duration(download.seconds_left)} left")
    elif download.seconds_left is not None:
        parts.append("any moment now")

    return ", ".join(parts)


def _file_format(name: str) -> str:
    return _FORMATS.get(name, name)


def _columns(properties: bool | list[str]) -> str:
    """Return what a file has, in the words of the form."""
    if isinstance(properties, bool):
        return "ids and all user properties" if properties else "ids only"

    named = ", ".join(properties[:_MOST_NAMED])
    more = len(properties) - _MOST_NAMED

    return f"ids, {named} and {more} more" if more > 0 else f"ids, {named}"


def _short(name: str) -> str:
    """Return the beginning of an id, which tells it from others."""
    if len(name) <= _LONGEST_ID:
        return name

    return f"{name[: _LONGEST_ID - 2]}\N{HORIZONTAL ELLIPSIS}"
