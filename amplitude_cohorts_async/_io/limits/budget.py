"""
The monthly quota of export requests, and the allowances within it.

The usage is read from the service before the first export, after every twenty, in a
new month, and before an export is refused; exports in between are counted with the
limiter's counter, which all its clients share. An export is reserved before its
request is sent, and the reservation is cancelled if it was not.
https://amplitude.com/docs/apis/analytics/behavioral-cohorts
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, time, timedelta
from uuid import uuid4

import anyio
import attrs

from ..._core.known_usage import KnownUsage, UsageReading, month_of
from ...errors import (
    CohortsError,
    ConfigurationError,
    LimiterUnavailableError,
    MonthlyQuotaError,
    QuotaWaitError,
)
from ...models import Usage
from ..context import Clock
from .base import SharedCounter

_logger = logging.getLogger(__name__)

_ALL = "*"
_ID = "*id"
_ASK_EVERY = 20
# Until the next try after the usage could not be read, or shows no room.
_ASK_AGAIN = timedelta(minutes=1)


@attrs.define(eq=False)
class Spend:
    """
    The reservation of one export request.

    Attributes:
        used: The month's usage before it, if known.
    """

    names: list[str] = attrs.field(factory=list[str])
    used: int | None = None
    is_committed: bool = False

    def commit(self) -> None:
        """Make the export count, whatever the answer: its request is sent now."""
        self.is_committed = True


class Budget:
    """
    Refuses an export request once the monthly quota, or an allowance, is exhausted.

    It leaves *reserve* requests for others. *allowances* are requests a month by
    name.

    Attributes:
        known: The usage, as the service told it last.
    """

    def __init__(
        self,
        read_usage: Callable[[], Awaitable[Usage]] | None,
        *,
        clock: Clock,
        counter: SharedCounter,
        reserve: int = 0,
        allowances: Mapping[str, int] | None = None,
    ) -> None:
        self._read_usage = read_usage
        self._clock = clock
        self._counter = counter
        self._reserve = reserve
        self._allowances = dict(allowances or {})
        self._asking = anyio.Lock()
        self.known: KnownUsage = KnownUsage()
        self._reserved: set[Spend] = set()

    def discard_reading(self) -> None:
        """Have the usage read again: the service has refused what it had room for."""
        self.known = KnownUsage()

    @asynccontextmanager
    async def spend(
        self, *, allowance: str | None = None, known: KnownUsage | None = None
    ) -> AsyncGenerator[Spend]:
        """
        Reserve one export request, or raise; cancel it unless it is committed.

        Args:
            known: What another client has read for this export; None reads the usage
                first, if that is due, which is another request.
        """
        names = [_ALL] if allowance is None else [self._checked(allowance), _ALL]
        spend = Spend()
        self._reserved.add(spend)

        try:
            if known is None:
                with suppress(QuotaWaitError):
                    await self.read_if_due()
            reading = await self._reading_of(known)
            for name in names:
                # Recorded first, so that a cancelled addition is taken back as well;
                # at worst the service then refuses one request itself.
                spend.names.append(name)
                count = await self._add(name, 1)
                if name == _ALL:
                    self._check_month(spend, count, reading)
                else:
                    self._check_allowance(name, count)
            yield spend
        finally:
            self._reserved.discard(spend)
            if not spend.is_committed:
                await self._take_back(spend)

    async def read_if_due(self) -> bool:
        """
        Read the month's usage if that is due; return whether it was asked for.

        Raises:
            QuotaWaitError: There is no slot for the question.
        """
        if self._read_usage is None:
            return False

        async with self._asking:
            counted = await self._add(_ALL, 0)
            # The service's count does not include what is reserved and not sent.
            unsent = sum(
                _ALL in spend.names and not spend.is_committed
                for spend in self._reserved
            )
            counter_id = await self._counter_id()
            if not self._must_ask(counted, unsent, counter_id):
                return False

            at = self._clock.utcnow()

            try:
                usage = await self._read_usage()
            except QuotaWaitError:
                raise
            except CohortsError as error:
                # If the quota is exhausted, the service refuses the request itself.
                facts = {"error": type(error).__name__}
                _logger.warning("the month's usage could not be read", extra=facts)
                self.known = attrs.evolve(self.known, failed_at=self._clock.utcnow())
                return True

            reading = UsageReading(
                usage=usage,
                counted=counted - unsent,
                counter_id=counter_id,
                at=at,
            )
            self.known = attrs.evolve(self.known, reading=reading)
            if reading.is_outdated(now := self._clock.utcnow()):
                # The service's clock is behind ours: its new month has not begun.
                self.known = attrs.evolve(self.known, failed_at=now)

            return True

    def _must_ask(self, counted: int, unsent: int, counter_id: int) -> bool:
        reading, failed_at = self.known.reading, self.known.failed_at
        now = self._clock.utcnow()

        # One of the future was noted before our clock was set back.
        if failed_at is not None and timedelta() <= now - failed_at < _ASK_AGAIN:
            return False

        if reading is None or reading.is_outdated(now):
            return True

        # A store that was emptied: what was counted since the reading is not known.
        if reading.counter_id != counter_id:
            return True

        if counted - reading.counted >= _ASK_EVERY:
            return True

        limit, used = reading.usage.limit, reading.used_at(counted)
        if limit is None or used + self._reserve < limit:
            return False

        # An export would be refused: unless the service counted less than we did. It
        # may not have counted yet what is on its way.
        is_sending = any(spend.is_committed for spend in self._reserved)
        has_sent = counted - unsent != reading.counted
        return not is_sending and (has_sent or now - reading.at >= _ASK_AGAIN)

    async def _reading_of(self, known: KnownUsage | None) -> UsageReading | None:
        """Return the last reading of this counter."""
        if self.known.reading is not None or known is None or known.reading is None:
            return self.known.reading

        is_ours = known.reading.counter_id == await self._counter_id()
        return known.reading if is_ours else None

    def _check_month(
        self, spend: Spend, count: int, reading: UsageReading | None
    ) -> None:
        if reading is None or reading.has_reset_since(self._clock.utcnow()):
            return

        limit, resets_at = reading.usage.limit, reading.usage.resets_at
        # The count includes the export being reserved.
        used = spend.used = reading.used_at(count) - 1

        if limit is None or used + self._reserve < limit:
            return

        kept = f", {self._reserve} of them in reserve" if self._reserve else ""
        raise MonthlyQuotaError(
            f"the monthly quota is exhausted: {used} of {limit} export requests are "
            f"spent{kept}; no export was spent, the count starts again "
            f"{_when(resets_at)}",
            limit=limit,
            used=used,
            resets_at=resets_at,
        )

    def _check_allowance(self, name: str, count: int) -> None:
        most = self._allowances[name]
        if count <= most:
            return

        reading = self.known.reading
        resets_at = reading.usage.resets_at if reading else None
        raise MonthlyQuotaError(
            f"the allowance {name!r} has spent its {most} export requests of this "
            f"month; no export was spent now, raise the allowance or wait: the count "
            f"starts again {_when(resets_at)}",
            limit=reading.usage.limit if reading else None,
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
        # A week into the next month, so that clocks that differ do not drop it.
        until = first + timedelta(days=38)
        return await self._counter.add(f"{month_of(first)}:{name}", by, until=until)

    async def _counter_id(self) -> int:
        # Who finds none adds one, of 31 bits; if two do at once, it is the sum.
        return await self._add(_ID, 0) or await self._add(_ID, uuid4().int >> 97)

    async def _take_back(self, spend: Spend) -> None:
        with anyio.CancelScope(shield=True), suppress(LimiterUnavailableError):
            for name in spend.names:
                await self._add(name, -1)


def _when(resets_at: datetime | None) -> str:
    if resets_at is None:
        return "on the first of next month"

    return f"at {resets_at:%Y-%m-%d %H:%M} UTC"
