"""Filters that work at the same time."""

from __future__ import annotations

import threading

import pytest

from amplitude_cohorts_async._core.csvtext import Malformed
from amplitude_cohorts_async._io.sinks import filters as stages
from amplitude_cohorts_async._io.sinks.filters import InThread


class Collected:
    """A filter that remembers, and may be held up or broken."""

    def __init__(self, *, error: BaseException | None = None) -> None:
        self.data = bytearray()
        self.ends: list[str] = []
        self.threads: set[int] = set()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._error = error

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self.may_go_on.wait()
        self.threads.add(threading.get_ident())

        if self._error is not None:
            raise self._error

        self.data += data

    def finish(self) -> None:
        """Take note of the end."""
        self.ends.append("finished")

    def discard(self) -> None:
        """Take note of the abandonment."""
        self.ends.append("discarded")


def test_all_arrives_in_order_in_another_thread() -> None:
    """What is handed over in a buffer that is used again arrives as it was."""
    then = Collected()
    chain = InThread(then)
    room = bytearray(4)

    for number in range(1000):
        room[:] = b"%04d" % number
        chain.write(memoryview(room))

    chain.finish()

    assert then.data == b"".join(b"%04d" % number for number in range(1000))
    assert ["finished"] == then.ends
    assert threading.get_ident() not in then.threads
    assert 1 == len(then.threads)


def test_nothing_written_needs_no_thread() -> None:
    """An end without bytes is passed on as well."""
    then = Collected()
    InThread(then).finish()

    assert ["finished"] == then.ends


def test_few_pieces_wait() -> None:
    """The faster chain waits for the slower one: memory has a bound."""
    then = Collected()
    then.may_go_on.clear()
    chain = InThread(then)
    written = 0

    def write() -> None:
        nonlocal written
        for _ in range(100):
            chain.write(b"x")
            written += 1

    before = set(threading.enumerate())
    writer = threading.Thread(target=write)
    writer.start()
    # One is in the other's hands.
    while written <= stages._QUEUE_SIZE:
        writer.join(0.01)
    writer.join(0.05)
    assert stages._QUEUE_SIZE + 1 == written

    then.may_go_on.set()
    writer.join()
    chain.finish()

    assert 100 == len(then.data)
    assert set(threading.enumerate()) <= before


def test_an_error_is_raised_by_a_later_call() -> None:
    """Whoever writes on, or ends, hears of it, and never waits in vain."""
    error = Malformed("no text of members")
    chain = InThread(Collected(error=error))

    with pytest.raises(Malformed, match="no text of members"):
        for _ in range(100_000):
            chain.write(b"x")

    with pytest.raises(Malformed, match="no text of members"):
        chain.finish()


def test_whatever_ends_the_other_thread_is_told() -> None:
    """Also what is no error: a piece that was not taken is never forgotten."""
    chain = InThread(Collected(error=SystemExit("enough")))
    chain.write(b"x")

    with pytest.raises(SystemExit, match="enough"):
        chain.finish()


@pytest.mark.parametrize("is_broken", [False, True])
def test_what_is_discarded_is_not_written_on(is_broken: bool) -> None:
    """Pieces that wait are forgotten, and no thread is left."""
    then = Collected(error=OSError(28, "No space left") if is_broken else None)
    then.may_go_on.clear()
    before = set(threading.enumerate())
    chain = InThread(then)

    for _ in range(stages._QUEUE_SIZE):
        chain.write(b"x")

    helper = threading.Timer(0.05, then.may_go_on.set)
    helper.start()
    chain.discard()
    chain.discard()
    helper.join()

    assert len(then.data) <= 1
    assert ["discarded", "discarded"] == then.ends
    assert set(threading.enumerate()) <= before


def test_a_discarded_end_is_kept() -> None:
    """Discarding after the end changes nothing of what was written."""
    then = Collected()
    chain = InThread(then)
    chain.write(b"x")
    chain.finish()
    chain.discard()

    assert b"x" == then.data
    assert ["finished", "discarded"] == then.ends
