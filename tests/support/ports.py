"""
Ports on loopback, free ones and those where somebody listens, and what is said
when nobody does any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
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


# Below those that a system gives to whoever asks for any: before a process listens that
# is told one of these, a server of another test would have it, and answer for it.
_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Find so many different ports that nobody listens on."""
    chosen = set[int]()

    while len(chosen) < count:
        # Not of a seed that is the same in all processes of the tests.
        port = random.SystemRandom().choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind((LOOPBACK, port))
            chosen.add(port)

    return [*chosen]


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
