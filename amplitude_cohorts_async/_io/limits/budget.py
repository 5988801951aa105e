"""
The month's export requests: what is left of them, and for whom.

The service is asked at the first need, every twenty spends, and in a new
month; what is spent between is counted here. The counter is the limiter's, so
the spends of all that share it count too. An export is reserved before anything is sent, and given back if nothing was.
https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, time, timedelta

import anyio
import attrs

from ...errors import (
    CohortsError,
    ConfigurationError,
    LimiterUnavailableError,
    MonthlyQuotaError,
)
from ...models import Usage
from ..context import Clock
from .base import LocalCounter, SharedCounter

_log = logging.getLogger(__name__)

_ALL = "*"
_ASK_EVERY = 20
# Seconds to go on with what is known after the service could not be asked.
_ASK_AGAIN = 60.0


@attrs.define(eq=False)
class Spend:
    """A reservation in the budget, for one export request."""

    names: list[str] = attrs.field(factory=list[str])
    is_committed: bool = False

    def commit(self) -> None:
        """Make the export count: its request goes out now, whatever the answer."""
        self.is_committed = True


@attrs.frozen
class _Known:
    """The usage as the service gave it, and what stood on the counter then."""

    usage: Usage
    month: str
    counted: int


class Budget:
    """Refuses an export request once the monthly quota is exhausted."""

    def __init__(
        self,
        read_usage: Callable[[], Awaitable[Usage]],
        *,
        clock: Clock,
        counter: SharedCounter | None = None,
        reserve: int = 0,
        allowances: Mapping[str, int] | None = None,
    ) -> None:
        """
        Prepare; nothing is asked yet.

        Args:
            read_usage: Asks the service.

            counter: Counts for all that share the month; None counts alone.

            reserve: Export requests to leave for others.

            allowances: The most export requests of a month by caller.
        """
        self._read_usage = read_usage
        self._clock = clock
        self._counter = counter or LocalCounter()
        self._reserve = reserve
        self._allowances = dict(allowances or {})
        self._asking = anyio.Lock()
        self._known: _Known | None = None
        self._next_try = -math.inf
        self._reserved: set[Spend] = set()

    @asynccontextmanager
    async def spend(self, *, allowance: str | None = None) -> AsyncGenerator[Spend]:
        """
        Reserve one export request; give it back unless it is committed.

        Args:
            allowance: The caller it is for.

        Raises:
            MonthlyQuotaError: There is none left; nothing was sent.
        """
        names = [_ALL] if allowance is None else [self._checked(allowance), _ALL]
        spend = Spend()
        self._reserved.add(spend)

        try:
            await self._update_usage()
            for name in names:
                # Noted first: a cancelled addition is taken back all the same,
                # which at worst lets the service refuse one request itself.
                spend.names.append(name)
                self._check(name, await self._add(name, 1))
            yield spend
        finally:
            self._reserved.discard(spend)
            if not spend.is_committed:
                await self._give_back(spend)

    async def left(self) -> int | None:
        """Return how many export requests may yet be spent; None is no limit."""
        await self._update_usage()
        known = self._known
        if known is None or known.usage.limit is None:
            return None

        used = known.usage.used + await self._add(_ALL, 0) - known.counted
        return max(0, known.usage.limit - self._reserve - used)

    async def _update_usage(self) -> None:
        async with self._asking:
            counted = await self._add(_ALL, 0)
            if not self._must_ask(counted):
                return

            # What is reserved and not sent is not in the service's count yet.
            unsent = sum(
                _ALL in spend.names and not spend.is_committed
                for spend in self._reserved
            )
            month = self._month()

            try:
                usage = await self._read_usage()
            except CohortsError as error:
                # The service itself refuses a request that is too many.
                facts = {"error": type(error).__name__}
                _log.warning("the month's usage could not be read", extra=facts)
                self._next_try = self._clock.now() + _ASK_AGAIN
                return

            self._known = _Known(usage, month, counted - unsent)
            if self._is_over(usage):
                # Its clock is behind ours: it has not begun the new month yet.
                self._next_try = self._clock.now() + _ASK_AGAIN

    def _must_ask(self, counted: int) -> bool:
        if self._clock.now() < self._next_try:
            return False

        known = self._known
        if known is None or known.month != self._month() or self._is_over(known.usage):
            return True

        return counted - known.counted >= _ASK_EVERY

    def _is_over(self, usage: Usage) -> bool:
        resets_at = usage.resets_at
        return resets_at is not None and self._clock.utcnow() >= resets_at

    def _check(self, name: str, count: int) -> None:
        if name != _ALL:
            self._check_allowance(name, count)
            return

        known = self._known
        if known is None or known.month != self._month():
            return

        limit, resets_at = known.usage.limit, known.usage.resets_at
        # The one being reserved is in the count already.
        used = known.usage.used + count - known.counted - 1

        if limit is None or used + self._reserve < limit:
            return

        kept = f", {self._reserve} of them in reserve" if self._reserve else ""
        raise MonthlyQuotaError(
            f"{used} of this month's {limit} export requests are spent{kept}; "
            f"nothing was sent, the count starts again {_when(resets_at)}",
            limit=limit,
            used=used,
            resets_at=resets_at,
        )

    def _check_allowance(self, name: str, count: int) -> None:
        most = self._allowances[name]
        if count <= most:
            return

        known = self._known
        resets_at = known.usage.resets_at if known else None
        raise MonthlyQuotaError(
            f"{name} has spent its {most} export requests of this month; nothing "
            f"was sent, raise its allowance or wait: the count starts again "
            f"{_when(resets_at)}",
            limit=known.usage.limit if known else None,
            used=count - 1,
            resets_at=resets_at,
        )

    def _checked(self, allowance: str) -> str:
        if allowance not in self._allowances:
            raise ConfigurationError(
                f"no allowance is called {allowance!r}; there is "
                f"{', '.join(sorted(self._allowances)) or 'none'}"
            )

        return allowance

    async def _add(self, name: str, by: int) -> int:
        first = datetime.combine(self._clock.utcnow().replace(day=1), time(), UTC)
        # A week into the next month, lest clocks that differ lose it.
        until = first + timedelta(days=38)
        return await self._counter.add(f"{first:%Y-%m}:{name}", by, until=until)

    async def _give_back(self, spend: Spend) -> None:
        with anyio.CancelScope(shield=True), suppress(LimiterUnavailableError):
            for name in spend.names:
                await self._add(name, -1)

    def _month(self) -> str:
        return f"{self._clock.utcnow():%Y-%m}"


def _when(resets_at: datetime | None) -> str:
    if resets_at is None:
        return "on the first of next month"

    return f"at {resets_at:%Y-%m-%d %H:%M} UTC"
