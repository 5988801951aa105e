"""Ctrl-C does what it does at a terminal, whoever has started the tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """
    Let this process and its children be interrupted.

    A shell has its background jobs ignore SIGINT. What a process ignores, its children
    ignore as well; what it handles is the default to them.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)
