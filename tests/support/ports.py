"""
Ports on loopback, free ones and those where somebody listens, and what is said
when nobody does any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

LOOPBACK = "127.0.0.1"

GONE = (asyncio.IncompleteReadError, OSError, RuntimeError)
"""
What a server hears of a client that has left. RuntimeError is uvloop's word for a
write to a connection that is closed.
"""


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """End a server's connection, and fetch the reason if it ended before."""
    writer.transport.abort()

    # Left to the collector, the reason may be reported as fetched by nobody.
    with contextlib.suppress(*GONE):
        await writer.wait_closed()


def free_ports(count: int) -> list[int]:
    """Find so many different ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))

        return [each.getsockname()[1] for each in sockets]


def await_port(port: int, *, alive: Callable[[], bool], timeout: float = 30.0) -> bool:
    """
    Wait until a port answers; tell if it did before its process or the time ended.
    """
    deadline = time.monotonic() + timeout
    while alive() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, port), 0.2).close()
            return True
        time.sleep(0.02)

    return False
