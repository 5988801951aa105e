"""
One limiter for each app, shared by all its clients in this process.

The limits have to hold across clients, threads and event loops, and across one
`asyncio.run()` after another. Clients that exist at the same time share a limiter;
its state stays here after the last one, for the next limiter of the app. This state
of the module is guarded by a lock; an app costs a few kilobytes and is forgotten an
hour after its last request, longer than any window. A custom clock, and a loop whose
time is not the system's, have limiters of their own, whose state is not kept.

The limits of the first client apply to all that share its limiter; a client with
others logs a warning.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from weakref import WeakValueDictionary

from anyio.lowlevel import RunVar

from ...limits import Limits
from ..context import Clock
from .local import LimiterState, LocalLimiter

_logger = logging.getLogger(__name__)

_FORGOTTEN_AFTER = 3600.0
# Seconds between two looks at all apps: with many of them one takes a while.
_LOOKS_EVERY = 60.0
# A loop's time is `time.monotonic()`, or cached from it a moment ago.
_SAME_TIME = 10.0

_Limiters = WeakValueDictionary[tuple[str, int], LocalLimiter]

_mutex = threading.Lock()
_limiters: _Limiters = WeakValueDictionary()
_states: dict[str, LimiterState] = {}
_looked_at = 0.0
_of_loop: RunVar[_Limiters] = RunVar("amplitude_cohorts_async_limiters")


def _make_mutex() -> None:
    # Another thread of the parent may have held it.
    global _mutex  # noqa: PLW0603
    _mutex = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_mutex)


def limiter_for(
    app_key: str, limits: Limits, clock: Clock | None = None
) -> LocalLimiter:
    """Return the limiter of an app; a new one keeps *limits*."""
    with _mutex:
        limiters, state = _limiters, None

        if clock is None and _has_own_time():
            limiters = _limiters_of_loop()
        elif clock is None:
            state = _state_of(app_key)

        key = (app_key, id(clock) if clock else 0)
        limiter = limiters.get(key)

        if limiter is None:
            limiter = limiters[key] = LocalLimiter(limits, clock=clock, state=state)

    if limiter.limits != limits:
        _logger.warning(
            "this app's limiter has other limits; these apply to all its clients"
        )

    return limiter


def _has_own_time() -> bool:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False

    return abs(loop.time() - time.monotonic()) > _SAME_TIME


def _limiters_of_loop() -> _Limiters:
    none_yet: _Limiters = WeakValueDictionary()
    limiters = _of_loop.get(none_yet)
    _of_loop.set(limiters)
    return limiters


def _state_of(app_key: str) -> LimiterState:
    global _looked_at  # noqa: PLW0603
    now = time.monotonic()

    if now >= _looked_at + _LOOKS_EVERY:
        _looked_at = now
        _forget(before=now - _FORGOTTEN_AFTER)

    return _states.setdefault(app_key, LimiterState())


def _forget(*, before: float) -> None:
    for key, state in list(_states.items()):
        if (key, 0) not in _limiters and state.newest < before:
            del _states[key]
