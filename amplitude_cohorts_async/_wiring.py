"""
Which parts a client is made of when the caller names none.
"""

from __future__ import annotations

from functools import partial

from ._config import Settings
from ._core import requests, responses
from ._core.retrying import NO_RETRIES
from ._io.clock import Clock
from ._io.limits.base import Limiter
from ._io.limits.budget import Budget
from ._io.limits.registry import limiter_for
from ._io.session import Session
from .limits import Limits
from .models import Routes, Usage


def shared_limiter(
    limiter: Limiter | None, settings: Settings, limits: Limits, clock: Clock | None
) -> Limiter:
    """
    Return the limiter that all clients of the app share.

    Args:
        limiter: The caller's; None takes this process's own for the app.
    """
    if limiter is None:
        return limiter_for(settings.app, limits, clock)

    limiter.bind(settings.app)

    return limiter


def limiter_of_fleet(url: str, limits: Limits) -> Limiter:
    """
    Return the limiter that a URL of Redis or Valkey names.

    Raises:
        MissingExtraError: The extra ``redis`` is not installed.
    """
    from .contrib.redis import RedisLimiter  # noqa: PLC0415 - optional

    return RedisLimiter.from_url(url, limits=limits)


def make_budget(
    session: Session, *, routes: Routes, limits: Limits, allowances: dict[str, int]
) -> Budget:
    """
    Return the guard of the month.
    """
    guards = limits.guard_month and routes is Routes.VENDOR

    return Budget(
        partial(_read_usage, session) if guards else _unknown_usage,
        clock=session.clock,
        counter=session.limiter.counter,
        reserve=limits.monthly_reserve,
        allowances=allowances,
    )


async def _read_usage(session: Session) -> Usage:
    request = requests.usage(Routes.VENDOR)
    # An export must not wait long for a number that may be missing.
    response = await session.send(request, retrying=NO_RETRIES)

    return responses.usage(request, response)


async def _unknown_usage() -> Usage:
    return Usage(limit=None, used=0)
