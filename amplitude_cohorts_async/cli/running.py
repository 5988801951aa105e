"""
Running asynchronous work so that Ctrl-C always finds it in order.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ("run",)

T = TypeVar("T")


def run(work: Coroutine[object, object, T]) -> T:
    """
    Do *work* as `asyncio.run()` does, from its first step to its last.

    Ctrl-C while the loop is being made would tear it apart, and Python would
    complain about the pieces. It waits until the loop can take it.
    """

    async def reachable() -> T:
        """
        Let Ctrl-C through, now that there is a loop to take it.
        """
        _hold_ctrl_c(hold=False)
        return await work

    _hold_ctrl_c(hold=True)
    try:
        return asyncio.run(reachable())
    finally:
        _hold_ctrl_c(hold=False)


def _hold_ctrl_c(*, hold: bool) -> None:
    # Windows cannot.
    if hasattr(signal, "pthread_sigmask"):
        how = signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM})
