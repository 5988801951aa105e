"""The month's usage, as it was last read, plus what was counted since."""

from __future__ import annotations

from datetime import datetime

import attrs

from ..models import Usage


@attrs.frozen(kw_only=True)
class UsageReading:
    """
    The usage that the service told.

    Attributes:
        counted: The value of the limiter's counter then, without what was reserved
            only.
        counter_id: Tells that counter from others: another process may have its own.
        at: When it was asked for, aware UTC by our clock.
    """

    usage: Usage
    counted: int
    counter_id: int
    at: datetime

    def is_outdated(self, now: datetime) -> bool:
        """Whether it is of an earlier month: by our clock, or when the service said."""
        resets_at = self.usage.resets_at

        return self._is_of_earlier_month(now) or (
            resets_at is not None and now >= resets_at
        )

    def has_reset_since(self, now: datetime) -> bool:
        """
        Whether the count has started again since it was read.

        One that was outdated when it was read is of a service whose clock is behind
        ours: it holds.
        """
        resets_at = self.usage.resets_at

        return self._is_of_earlier_month(now) or (
            resets_at is not None and self.at < resets_at <= now
        )

    def used_at(self, counted: int) -> int:
        """Return the usage at a later value of the counter."""
        # What was reserved only may have been taken back since.
        return self.usage.used + max(0, counted - self.counted)

    def _is_of_earlier_month(self, now: datetime) -> bool:
        return month_of(self.at) != month_of(now)


@attrs.frozen(kw_only=True)
class KnownUsage:
    """
    What is known of the month's usage.

    Attributes:
        reading: The last one.
        failed_at: When a newer one was asked for in vain: the usage could not be read,
            or was of a month that is over by our clock.
    """

    reading: UsageReading | None = None
    failed_at: datetime | None = None

    def is_of_month(self, now: datetime) -> bool:
        """Whether the usage was asked for in this month."""
        asked_at = [self.failed_at, self.reading and self.reading.at]

        return any(at and month_of(at) == month_of(now) for at in asked_at)


def month_of(at: datetime) -> str:
    """Return the name of a month, as in 2026-11."""
    return f"{at:%Y-%m}"
