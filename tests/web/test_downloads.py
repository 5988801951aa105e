"""How far a file is, by the events of a client: bytes, pace, and the time left."""

from __future__ import annotations

import attrs
import pytest

from amplitude_cohorts_async.contrib._web.downloads import Download, Downloads
from amplitude_cohorts_async.events import BytesReceived, PhaseEnded
from amplitude_cohorts_async.testing import FakeClock

REQUEST = "WsDK4F"


@pytest.fixture
def downloads(clock: FakeClock) -> Downloads:
    """Those of a process that has heard nothing yet."""
    return Downloads(clock.now)


def came(received: int, total: int | None = None, **known: float) -> BytesReceived:
    """Return what is reported when so many bytes are here."""
    return BytesReceived(request_id=REQUEST, received=received, total=total, **known)


def ended(rows: int | None = None, error: str | None = None) -> PhaseEnded:
    """Return what is reported at the end."""
    return PhaseEnded(
        id=1,
        phase="download",
        cohort_id="buyers",
        request_id=REQUEST,
        seconds=1.0,
        rows=rows,
        error=error,
    )


def test_known_size(downloads: Downloads, clock: FakeClock) -> None:
    """The time left is the library's, less what has passed since."""
    downloads.note(came(1_000, 9_000, seconds_left=4.0))
    first = downloads.find(REQUEST)
    clock.advance(1.0)
    second = downloads.find(REQUEST)
    clock.advance(10.0)
    third = downloads.find(REQUEST)

    assert first == Download(
        received=1_000, total=9_000, pace=2_000.0, seconds_left=4.0
    )
    assert second == attrs.evolve(first, seconds_left=3.0)
    assert third == attrs.evolve(first, seconds_left=0.0)


def test_unknown_size(downloads: Downloads, clock: FakeClock) -> None:
    """There is a pace as soon as more has come; no end is made up."""
    downloads.note(came(1_000))
    first = downloads.find(REQUEST)
    clock.advance(2.0)
    downloads.note(came(2_000))
    second = downloads.find(REQUEST)

    assert first == Download(received=1_000)
    assert second == Download(received=2_000, pace=500.0)


def test_new_start(downloads: Downloads, clock: FakeClock) -> None:
    """What came before it says nothing of the pace."""
    downloads.note(came(5_000))
    clock.advance(1.0)
    downloads.note(came(1_000))
    clock.advance(1.0)
    downloads.note(came(1_100))

    assert downloads.find(REQUEST) == Download(received=1_100, pace=100.0)


@pytest.mark.parametrize("rows", [None, 0, 11])
def test_end(downloads: Downloads, rows: int | None) -> None:
    """What is over is not under way, and its rows are known where they were counted."""
    downloads.note(came(1_000))
    downloads.note(ended(rows))

    assert downloads.find(REQUEST) is None
    assert rows == downloads.rows(REQUEST)


def test_other_phases(downloads: Downloads) -> None:
    """The end of a step is not the end of the file."""
    downloads.note(came(1_000))
    downloads.note(attrs.evolve(ended(), phase="tick"))

    assert downloads.find(REQUEST) == Download(received=1_000)
    assert downloads.find("another") is None
