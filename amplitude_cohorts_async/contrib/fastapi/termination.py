"""
Hears that the server is about to end, before the server waits for its connections.

A server like uvicorn waits on SIGTERM until each response has ended, and only then
ends the lifespan: a stream of events would keep it for ever.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import FrameType

__all__ = ("on_termination",)

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGBREAK")
    if hasattr(signal, name)
]


@contextmanager
def on_termination(callback: Callable[[], None]) -> Generator[None]:
    """
    Call *callback* on the running loop when the process is told to end.

    The server's own handler is called as well. Outside the main thread nobody is told.
    """
    loop = asyncio.get_running_loop()

    with ExitStack() as stack:
        for number in _SIGNALS:
            stack.enter_context(_beside(number, loop, callback))
        yield


@contextmanager
def _beside(
    number: signal.Signals,
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[], None],
) -> Generator[None]:
    servers = signal.getsignal(number)

    # Without a handler the process ends at once, and nobody waits for a stream.
    if not callable(servers):
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        """Tell both."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback)
        servers(signum, frame)

    try:
        signal.signal(number, handle)
    except ValueError:  # not the main thread
        yield
        return

    try:
        yield
    finally:
        if signal.getsignal(number) is handle:
            signal.signal(number, servers)
